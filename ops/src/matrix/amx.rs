//! Products on the tile registers of Intel's AMX.
//!
//! Of the nine products of parts, the six largest are summed: high·high, high·middle, middle·high,
//! high·low, middle·middle and low·high. What is left out is below 2⁻²⁴ of a product, less than what one
//! 32-bit rounding loses. Sums are kept in 32 bits.

use super::{
    Left, Matrix,
    split::{BLOCK, BLOCK_TILES, DEPTH, Operand, TILE, Tile, pack},
};
use std::{arch::asm, cell::RefCell, sync::OnceLock};

/// Steps of the inner dimension that are packed at a time at most.
const DEPTH_PART: usize = 16 * DEPTH;
/// Elements of the right operand that are packed at a time: in parts they take 768 KiB of the second-level cache.
const RIGHT_PART: usize = 128 * 1024;
/// Columns of that part at least, lest the left operand is read too often.
const MIN_COLUMNS: usize = 256;

/// Whether AMX computes a product of `[m, n, k]` faster than the other instructions do.
///
/// Always no where the processor or the kernel lacks AMX, or the environment says `SCRL_AMX=0`.
pub(super) fn pays([m, n, k]: [usize; 3]) -> bool {
    // Padding to whole tiles must not eat what AMX gains, a factor of three or more.
    m >= TILE / 2 && n >= TILE / 2 && k >= TILE && available()
}

/// Whether the tile registers can be used.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        let wanted = std::env::var_os("SCRL_AMX").is_none_or(|value| value != "0");
        wanted && has_instructions() && request_permission()
    })
}

fn has_instructions() -> bool {
    const TILES: u32 = 1 << 24;
    const BFLOAT16: u32 = 1 << 22;
    if !(is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")) {
        return false;
    }
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    features & TILES != 0 && features & BFLOAT16 != 0
}

/// Asks Linux to let this process use the tile registers.
fn request_permission() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call changes nothing but the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// Sets all tile registers to 16 rows of 64 bytes; gives them back when dropped.
pub(crate) struct Registers;

impl Registers {
    /// # Panics
    /// Never; but the processor stops the program where AMX is not [`available`].
    pub(crate) fn take() -> Self {
        #[repr(C, align(64))]
        struct Shapes([u8; 64]);
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for register in 0..8 {
            shapes.0[16 + 2 * register] = 64;
            shapes.0[48 + register] = TILE as u8;
        }
        // SAFETY: the processor has AMX (`pays`), and the 64 bytes are a valid configuration.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack)) };
        Self
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: the registers were taken.
        unsafe { asm!("tilerelease", options(nostack)) };
    }
}

/// Tiles of packed operands that a thread keeps from one product to the next.
#[derive(Default)]
struct Scratch {
    left: Vec<Tile>,
    right: Vec<Tile>,
}

/// The first `length` tiles of a buffer, with whatever they hold.
pub(crate) fn grow(tiles: &mut Vec<Tile>, length: usize) -> &mut [Tile] {
    if tiles.len() < length {
        tiles.resize(length, Tile::ZERO);
    }
    &mut tiles[..length]
}

/// `destination = lhs · rhs`, or `destination += lhs · rhs`.
///
/// # Safety
/// AMX is available; the operands hold `[m, k]` and `[k, n]`; the `m × n` elements of the destination are the
/// caller's alone, and written where they are added to.
pub(super) unsafe fn multiply(
    [m, n, k]: [usize; 3],
    lhs: &Left<'_>,
    rhs: Matrix<'_>,
    destination: *mut f32,
    row_stride: usize,
    accumulate: bool,
) {
    thread_local! {
        static SCRATCH: RefCell<Scratch> = RefCell::default();
    }
    let (left, right) = (Operand::left(lhs.matrix, [m, k]), Operand::right(rhs, [k, n]));
    // A left operand that is not packed yet would be packed again for every part of the columns.
    let [depth_part, columns_part] = match &lhs.packed {
        Some(_) => [DEPTH_PART, (RIGHT_PART / k.min(DEPTH_PART) / BLOCK * BLOCK).max(MIN_COLUMNS)],
        None => [(RIGHT_PART / n.next_multiple_of(BLOCK) / DEPTH * DEPTH).clamp(DEPTH, DEPTH_PART), n],
    };
    SCRATCH.with_borrow_mut(|scratch| {
        let _registers = Registers::take();
        for column in (0..n).step_by(columns_part) {
            let columns = (n - column).min(columns_part);
            for from in (0..k).step_by(depth_part) {
                let depth = (k - from).min(depth_part);
                let steps = depth.div_ceil(DEPTH);
                let right = right.part([column, columns], [from, depth]);
                let right_tiles = grow(&mut scratch.right, right.tiles());
                // SAFETY: parts of operands that are there.
                unsafe { pack::<false>(&right, right_tiles) };
                for row in (0..m).step_by(BLOCK) {
                    let rows = (m - row).min(BLOCK);
                    let left = match &lhs.packed {
                        Some(packed) => packed.block(row / BLOCK, from / DEPTH),
                        None => {
                            let tiles = grow(&mut scratch.left, steps * BLOCK_TILES);
                            // SAFETY: as above.
                            unsafe { pack::<true>(&left.part([row, rows], [from, depth]), tiles) };
                            tiles.as_ptr()
                        }
                    };
                    let blocks = right_tiles.chunks_exact(steps * BLOCK_TILES);
                    for (index, (start, right)) in (0..columns).step_by(BLOCK).zip(blocks).enumerate() {
                        // The next block of a packed left operand comes from memory: a part of it for each
                        // block of the right one.
                        let ahead = left.wrapping_add(steps * BLOCK_TILES + index * steps);
                        let target = destination.wrapping_add(row * row_stride + column + start);
                        // SAFETY: both blocks have `steps` steps; the target lies inside the destination.
                        unsafe {
                            block_product(
                                [rows, (columns - start).min(BLOCK)],
                                [left, right.as_ptr(), ahead],
                                steps,
                                target,
                                row_stride,
                                accumulate || from > 0,
                            );
                        }
                    }
                }
            }
        }
    });
}

/// The product of two blocks, up to 32 × 32 elements.
#[inline]
unsafe fn block_product(
    [rows, columns]: [usize; 2],
    operands: [*const Tile; 3],
    steps: usize,
    target: *mut f32,
    row_stride: usize,
    accumulate: bool,
) {
    #[repr(align(64))]
    struct Buffer([f32; BLOCK * BLOCK]);
    let kernel = match [rows > TILE, columns > TILE] {
        [true, true] => product_2x2,
        [true, false] => product_2x1,
        [false, true] => product_1x2,
        [false, false] => product_1x1,
    };
    // SAFETY: the caller's promises; edges go through a buffer of whole tiles.
    unsafe {
        if rows % TILE == 0 && columns % TILE == 0 {
            return kernel(operands, steps, target, row_stride, accumulate);
        }
        let mut buffer = Buffer([0.0; BLOCK * BLOCK]);
        let buffer = buffer.0.as_mut_ptr();
        if accumulate {
            for row in 0..rows {
                let source = target.wrapping_add(row * row_stride);
                std::ptr::copy_nonoverlapping(source, buffer.add(row * BLOCK), columns);
            }
        }
        kernel(operands, steps, buffer, BLOCK, accumulate);
        for row in 0..rows {
            let target = target.wrapping_add(row * row_stride);
            std::ptr::copy_nonoverlapping(buffer.add(row * BLOCK), target, columns);
        }
    }
}

/// Defines the product of a block of left and a block of right tiles.
///
/// Sums are in the registers 0 to 3, left tiles in 4 and 5, right tiles in 6 and 7. Every step asks for 1 KiB of
/// the memory at `ahead`, which need not be there.
macro_rules! product {
    ($name:ident, left $load_left:ident, right $load_right:ident, sums $sums:ident) => {
        #[inline]
        unsafe fn $name(
            [left, right, ahead]: [*const Tile; 3],
            steps: usize,
            target: *mut f32,
            row_stride: usize,
            accumulate: bool,
        ) {
            // SAFETY: the caller's promises about the memory; the registers are configured and not used by
            // compiled code.
            unsafe {
                asm!(
                    "lea {other}, [{target} + {stride}*8]",
                    "lea {other}, [{other} + {stride}*8]",
                    "test {accumulate}, {accumulate}",
                    "jz 3f",
                    $sums!("load"),
                    "jmp 2f",
                    "3:",
                    $sums!("zero"),
                    "2:",
                    $load_left!("0", "1024"), $load_right!("0", "1024"), $sums!("add"),
                    prefetch!("0", "64", "128"),
                    $load_right!("4096", "5120"), $sums!("add"),
                    prefetch!("192", "256", "320"),
                    $load_right!("2048", "3072"), $sums!("add"),
                    prefetch!("384", "448", "512"),
                    $load_left!("2048", "3072"), $sums!("add"),
                    prefetch!("576", "640", "704"),
                    $load_right!("0", "1024"), $sums!("add"),
                    prefetch!("768", "832", "896"),
                    $load_left!("4096", "5120"), $sums!("add"),
                    prefetch!("960", "960", "960"),
                    "add {left}, 6144",
                    "add {right}, 6144",
                    "add {ahead}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    $sums!("store"),
                    left = inout(reg) left => _,
                    right = inout(reg) right => _,
                    ahead = inout(reg) ahead => _,
                    steps = inout(reg) steps => _,
                    target = in(reg) target,
                    other = out(reg) _,
                    stride = in(reg) row_stride * size_of::<f32>(),
                    row = in(reg) 64usize,
                    accumulate = in(reg) usize::from(accumulate),
                    options(nostack),
                );
            }
        }
    };
}

/// Asks for three cache lines that will be wanted soon.
macro_rules! prefetch {
    ($first:literal, $second:literal, $third:literal) => {
        concat!(
            "prefetcht1 [{ahead}+", $first, "]\nprefetcht1 [{ahead}+", $second, "]\nprefetcht1 [{ahead}+",
            $third, "]"
        )
    };
}

macro_rules! left_pair {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm4, [{left}+{row}+", $first, "]\ntileloadd tmm5, [{left}+{row}+", $second, "]")
    };
}
macro_rules! left_single {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm4, [{left}+{row}+", $first, "]")
    };
}
macro_rules! right_pair {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm6, [{right}+{row}+", $first, "]\ntileloadd tmm7, [{right}+{row}+", $second, "]")
    };
}
macro_rules! right_single {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm6, [{right}+{row}+", $first, "]")
    };
}

/// The instructions on one register of sums: its number, its left and right tile, its place in the result.
macro_rules! sum {
    ("load", $sum:literal, $left:literal, $right:literal, $place:literal) => {
        concat!("tileloadd tmm", $sum, ", ", $place, "\n")
    };
    ("zero", $sum:literal, $left:literal, $right:literal, $place:literal) => {
        concat!("tilezero tmm", $sum, "\n")
    };
    ("add", $sum:literal, $left:literal, $right:literal, $place:literal) => {
        concat!("tdpbf16ps tmm", $sum, ", tmm", $left, ", tmm", $right, "\n")
    };
    ("store", $sum:literal, $left:literal, $right:literal, $place:literal) => {
        concat!("tilestored ", $place, ", tmm", $sum, "\n")
    };
}
macro_rules! upper_left {
    ($action:tt) => {
        sum!($action, "0", "4", "6", "[{target}+{stride}]")
    };
}
macro_rules! upper_pair {
    ($action:tt) => {
        concat!(upper_left!($action), sum!($action, "1", "4", "7", "[{target}+{stride}+64]"))
    };
}
macro_rules! left_column {
    ($action:tt) => {
        concat!(upper_left!($action), sum!($action, "2", "5", "6", "[{other}+{stride}]"))
    };
}
macro_rules! all_four {
    ($action:tt) => {
        concat!(
            upper_pair!($action),
            sum!($action, "2", "5", "6", "[{other}+{stride}]"),
            sum!($action, "3", "5", "7", "[{other}+{stride}+64]")
        )
    };
}

product!(product_2x2, left left_pair, right right_pair, sums all_four);
product!(product_2x1, left left_pair, right right_single, sums left_column);
product!(product_1x2, left left_single, right right_pair, sums upper_pair);
product!(product_1x1, left left_single, right right_single, sums upper_left);

/// The product of a packed left block with right tiles that lie in a panel, 32 × 32 elements.
///
/// A panel holds rows of pairs, `row_bytes` apart, of the high, the middle and the low parts, `part_bytes`
/// apart. Step *i* of the inner dimension takes its 16 rows from byte `offsets[i]` on, and asks for 1 KiB of the
/// memory at `ahead`, which need not be there.
///
/// # Safety
/// AMX is available and its registers taken; all tiles lie inside their memory; the target's elements are the
/// caller's alone.
pub(crate) unsafe fn product_with_panel(
    [left, ahead]: [*const Tile; 2],
    panel: *const u32,
    [row_bytes, part_bytes]: [usize; 2],
    offsets: &[usize],
    target: *mut f32,
    row_stride: usize,
) {
    // Rows of the panel begin anywhere in a cache line and load slower than the left tiles: their tiles are loaded
    // once a step.
    // SAFETY: the caller's promises; the registers are not used by compiled code.
    unsafe {
        asm!(
            "lea {other}, [{target} + {stride}*8]",
            "lea {other}, [{other} + {stride}*8]",
            all_four!("zero"),
            "2:",
            "mov {place}, [{offsets}]",
            "add {place}, {panel}",
            "tileloadd tmm4, [{left}+{row}+4096]",
            "tileloadd tmm5, [{left}+{row}+5120]",
            "tileloadd tmm6, [{place}+{row_bytes}]",
            "tileloadd tmm7, [{place}+{row_bytes}+64]",
            all_four!("add"),
            prefetch!("0", "64", "128"),
            "tileloadd tmm4, [{left}+{row}+2048]",
            "tileloadd tmm5, [{left}+{row}+3072]",
            all_four!("add"),
            prefetch!("192", "256", "320"),
            "tileloadd tmm4, [{left}+{row}]",
            "tileloadd tmm5, [{left}+{row}+1024]",
            all_four!("add"),
            prefetch!("384", "448", "512"),
            "lea {part_place}, [{place}+{part_bytes}*2]",
            "tileloadd tmm6, [{part_place}+{row_bytes}]",
            "tileloadd tmm7, [{part_place}+{row_bytes}+64]",
            all_four!("add"),
            prefetch!("576", "640", "704"),
            "lea {part_place}, [{place}+{part_bytes}]",
            "tileloadd tmm6, [{part_place}+{row_bytes}]",
            "tileloadd tmm7, [{part_place}+{row_bytes}+64]",
            all_four!("add"),
            prefetch!("768", "832", "896"),
            "tileloadd tmm4, [{left}+{row}+2048]",
            "tileloadd tmm5, [{left}+{row}+3072]",
            all_four!("add"),
            prefetch!("960", "960", "960"),
            "add {left}, 6144",
            "add {offsets}, 8",
            "add {ahead}, 1024",
            "dec {steps}",
            "jnz 2b",
            all_four!("store"),
            left = inout(reg) left => _,
            ahead = inout(reg) ahead => _,
            panel = in(reg) panel,
            row_bytes = in(reg) row_bytes,
            part_bytes = in(reg) part_bytes,
            offsets = inout(reg) offsets.as_ptr() => _,
            steps = inout(reg) offsets.len() => _,
            target = in(reg) target,
            stride = in(reg) row_stride * size_of::<f32>(),
            row = in(reg) 64usize,
            place = out(reg) _,
            part_place = out(reg) _,
            other = out(reg) _,
            options(nostack),
        );
    }
}

/// Adds the product of left tiles that lie in a panel with packed right tiles to 32 × 32 elements.
///
/// A panel's rows, `row_bytes` apart, hold numbers side by side, of the high, the middle and the low parts,
/// `part_bytes` apart; a step of the inner dimension is 64 bytes further on.
///
/// # Safety
/// As for [`product_with_panel`]; the target has been written.
pub(crate) unsafe fn add_product_of_panel(
    panel: *const u16,
    [row_bytes, part_bytes]: [usize; 2],
    right: *const Tile,
    steps: usize,
    target: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promises; the registers are not used by compiled code.
    unsafe {
        asm!(
            "lea {other}, [{target} + {stride}*8]",
            "lea {other}, [{other} + {stride}*8]",
            all_four!("load"),
            "2:",
            "tileloadd tmm4, [{upper}+{row_bytes}]",
            "tileloadd tmm5, [{lower_rows}+{row_bytes}]",
            "tileloadd tmm6, [{right}+{row}]",
            "tileloadd tmm7, [{right}+{row}+1024]",
            all_four!("add"),
            "tileloadd tmm6, [{right}+{row}+4096]",
            "tileloadd tmm7, [{right}+{row}+5120]",
            all_four!("add"),
            "tileloadd tmm6, [{right}+{row}+2048]",
            "tileloadd tmm7, [{right}+{row}+3072]",
            all_four!("add"),
            "lea {place}, [{upper}+{part_bytes}]",
            "tileloadd tmm4, [{place}+{row_bytes}]",
            "lea {place}, [{lower_rows}+{part_bytes}]",
            "tileloadd tmm5, [{place}+{row_bytes}]",
            all_four!("add"),
            "tileloadd tmm6, [{right}+{row}]",
            "tileloadd tmm7, [{right}+{row}+1024]",
            all_four!("add"),
            "lea {place}, [{upper}+{part_bytes}*2]",
            "tileloadd tmm4, [{place}+{row_bytes}]",
            "lea {place}, [{lower_rows}+{part_bytes}*2]",
            "tileloadd tmm5, [{place}+{row_bytes}]",
            all_four!("add"),
            "add {upper}, 64",
            "add {lower_rows}, 64",
            "add {right}, 6144",
            "dec {steps}",
            "jnz 2b",
            all_four!("store"),
            upper = inout(reg) panel => _,
            lower_rows = inout(reg) panel.wrapping_byte_add(TILE * row_bytes) => _,
            row_bytes = in(reg) row_bytes,
            part_bytes = in(reg) part_bytes,
            right = inout(reg) right => _,
            steps = inout(reg) steps => _,
            target = in(reg) target,
            stride = in(reg) row_stride * size_of::<f32>(),
            row = in(reg) 64usize,
            place = out(reg) _,
            other = out(reg) _,
            options(nostack),
        );
    }
}

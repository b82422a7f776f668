//! Products on the tile registers of Intel's AMX.
//!
//! Of the nine products of numbers in three parts, the six largest are summed: high·high, high·middle, middle·high,
//! high·low, middle·middle and low·high. What is left out is below 2⁻²⁴ of a product, less than what one
//! 32-bit rounding loses. Numbers in one part have one product. Sums are kept in 32 bits.

/// Assembly that writes tile registers, and says so to the compiler.
macro_rules! tile_asm {
    ($($part:tt)*) => {
        asm!(
            $($part)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
        )
    };
}

mod kernels;

use super::{
    Destination, Epilogue, Factor, Left, Matrix,
    cut::Cut,
    dot,
    split::{BLOCK, DEPTH, Operand, TILE, Tile, block_tiles, pack},
    store::{Place, prefetch_block, store_block},
};
use crate::cpu::Number;
use kernels::*;
use std::{
    arch::asm,
    cell::{Cell, RefCell},
    marker::PhantomData,
    mem::MaybeUninit,
    sync::OnceLock,
};

/// Steps of the inner dimension that are packed at a time at most, if numbers have one part.
const DEPTH_PART: usize = 48 * DEPTH;
/// Parts of elements of the right operand that are packed at a time: they take 768 KiB of the second-level cache.
const RIGHT_PART: usize = 384 * 1024;
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

/// Whether there are kernels for tiles of numbers in such parts: AMX's, and for numbers in one part those of AVX512-BF16.
pub(crate) fn has_tiles<C: Cut>() -> bool {
    available() || (C::PARTS == 1 && dot::available())
}

/// Checks that there are kernels for tiles of numbers in such parts, and so the AVX-512 instructions that prepare their
/// operands.
///
/// # Panics
/// If there are none.
pub(crate) fn require<C: Cut>() {
    assert!(
        has_tiles::<C>(),
        "this processor has no instructions for tiles of such numbers, or they are switched off"
    );
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

thread_local! {
    /// Whether this thread holds its [`Registers`].
    static TAKEN: Cell<bool> = const { Cell::new(false) };
}

/// A thread's tile registers, set to 16 rows of 64 bytes each; given back when dropped. Without AMX there are none to take.
///
/// They belong to the thread that took them.
pub(crate) struct Registers {
    not_send: PhantomData<*mut ()>,
}

impl Registers {
    /// Takes the registers of this thread.
    ///
    /// # Safety
    /// There are kernels for tiles of numbers in such parts ([`has_tiles`]).
    ///
    /// # Panics
    /// If the thread holds them already: giving them back twice would leave the first holder without.
    pub(crate) unsafe fn take<C: Cut>() -> Self {
        assert!(!TAKEN.replace(true), "this thread holds the tile registers already");
        if C::PARTS == 1 && !available() {
            return Self { not_send: PhantomData };
        }
        #[repr(C, align(64))]
        struct Shapes([u8; 64]);
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for register in 0..8 {
            shapes.0[16 + 2 * register] = 64;
            shapes.0[48 + register] = TILE as u8;
        }
        // SAFETY: the processor has AMX by the caller's promise, and the 64 bytes are a valid configuration.
        unsafe { tile_asm!("ldtilecfg [{}]", in(reg) &shapes, options(nostack),) };
        Self { not_send: PhantomData }
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        if available() {
            // SAFETY: the registers were taken.
            unsafe { tile_asm!("tilerelease", options(nostack),) };
        }
        TAKEN.set(false);
    }
}

/// Tiles of packed operands that a thread keeps from one product to the next.
#[derive(Default)]
struct PackedTiles {
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

/// How much of the inner dimension, and how many columns of the right operand, are packed at a time.
fn parts<C: Cut, O: Number>([_, n, k]: [usize; 3], packed: bool) -> [usize; 2] {
    let (right, most) = (RIGHT_PART / C::PARTS, DEPTH_PART / C::PARTS);
    if !O::IS_F32 {
        // Sums that are to be rounded are taken at once.
        return [k, (right / k.next_multiple_of(DEPTH) / BLOCK * BLOCK).max(MIN_COLUMNS / 2)];
    }
    if packed {
        return [most, (right / k.min(most) / BLOCK * BLOCK).max(MIN_COLUMNS)];
    }
    // A left operand that is not packed yet would be packed again for every part of the columns.
    [(right / n.next_multiple_of(BLOCK) / DEPTH * DEPTH).clamp(DEPTH, most), n]
}

/// `destination = lhs · rhs`, or `destination += lhs · rhs`.
///
/// # Safety
/// There are kernels for tiles of such numbers; the operands hold `[m, k]` and `[k, n]`; the `m × n` elements of the destination are the
/// caller's alone, and written where they are added to.
///
/// # Panics
/// If something is added to a destination that is not of 32 bits.
pub(super) unsafe fn multiply<N: Factor, O: Number>(
    [m, n, k]: [usize; 3],
    lhs: &Left<'_, N>,
    rhs: Matrix<'_, N>,
    destination: Destination<'_, O>,
    accumulate: bool,
) {
    thread_local! {
        static SCRATCH: RefCell<PackedTiles> = RefCell::default();
    }
    assert!(!accumulate || O::IS_F32, "sums are kept in 32 bits");
    let row_stride = destination.row_stride;
    let target = destination.data.pointer(destination.offset, (m - 1) * row_stride + n);
    let left = lhs.matrix.map(|matrix| Operand::left(matrix, [m, k]));
    let right = Operand::right(rhs, [k, n]);
    let [depth_part, columns_part] = parts::<N::Cut, O>([m, n, k], lhs.packed.is_some());
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: there are kernels by the caller's promise.
        let _registers = unsafe { Registers::take::<N::Cut>() };
        for column in (0..n).step_by(columns_part) {
            let columns = (n - column).min(columns_part);
            for from in (0..k).step_by(depth_part) {
                let depth = (k - from).min(depth_part);
                let steps = depth.div_ceil(DEPTH);
                let block_length = steps * block_tiles::<N::Cut>();
                let right = right.part([column, columns], [from, depth]);
                let right_tiles = grow(&mut scratch.right, right.blocks() * block_tiles::<N::Cut>());
                // SAFETY: parts of operands that are there.
                unsafe { pack::<N::Cut, false>(&right, right_tiles) };
                for row in (0..m).step_by(BLOCK) {
                    let rows = (m - row).min(BLOCK);
                    let left = match (&lhs.packed, left) {
                        (Some(packed), _) => packed.block(row / BLOCK, from / DEPTH),
                        (None, Some(left)) => {
                            let tiles = grow(&mut scratch.left, block_length);
                            let part = left.part([row, rows], [from, depth]);
                            // SAFETY: as above.
                            unsafe { pack::<N::Cut, true>(&part, tiles) };
                            tiles.as_ptr()
                        }
                        (None, None) => unreachable!("a left operand is a matrix, packed or not"),
                    };
                    let last = from + depth == k;
                    let epilogue = if last { &destination.epilogue } else { &Epilogue::NONE };
                    let blocks = right_tiles.chunks_exact(block_length);
                    for (index, (start, right)) in (0..columns).step_by(BLOCK).zip(blocks).enumerate() {
                        // The next block of a packed left operand comes from memory: a part of it for each
                        // block of the right one.
                        let ahead = left.wrapping_add(block_length);
                        let ahead = ahead.wrapping_byte_add(index * steps * ahead_bytes::<N::Cut>());
                        let offset = row * row_stride + column + start;
                        let target = target.wrapping_add(offset);
                        let place = Place { row, offset: destination.offset + offset, row_stride };
                        // SAFETY: both blocks have `steps` steps; the target lies inside the destination.
                        unsafe {
                            block_product::<N::Cut, O>(
                                [rows, (columns - start).min(BLOCK)],
                                [left, right.as_ptr(), ahead],
                                steps,
                                (target, place),
                                accumulate || from > 0,
                                epilogue,
                            );
                        }
                    }
                }
            }
        }
    });
}

/// Bytes of the memory ahead that a step of a product asks for.
pub(crate) const fn ahead_bytes<C: Cut>() -> usize {
    if C::PARTS == 1 { 256 } else { 1024 }
}

/// The product of two blocks, up to 32 × 32 elements; the third operand is what the [`kernels`] ask for ahead.
///
/// # Safety
/// This thread holds the [`Registers`]; both operands have `steps` steps; the elements of the target are the caller's
/// alone, and written where they are added to.
#[inline]
unsafe fn block_product<C: Cut, O: Number>(
    [rows, columns]: [usize; 2],
    operands: [*const Tile; 3],
    steps: usize,
    (target, place): (*mut O, Place),
    accumulate: bool,
    epilogue: &Epilogue<'_, O>,
) {
    #[repr(align(64))]
    struct Buffer(MaybeUninit<[f32; BLOCK * BLOCK]>);
    let kernel = match (C::PARTS, rows > TILE, columns > TILE) {
        (1, ..) if !available() => product_by_dots,
        (1, true, true) => product_2x2_of_1,
        (1, true, false) => product_2x1_of_1,
        (1, false, true) => product_1x2_of_1,
        (1, false, false) => product_1x1_of_1,
        (_, true, true) => product_2x2_of_3,
        (_, true, false) => product_2x1_of_3,
        (_, false, true) => product_1x2_of_3,
        (_, false, false) => product_1x1_of_3,
    };
    let row_stride = place.row_stride;
    // SAFETY: the caller's promises; edges, and what is to be rounded, go through a buffer of whole tiles.
    unsafe {
        let whole = if available() { TILE } else { BLOCK };
        if O::IS_F32 && epilogue.is_none() && rows % whole == 0 && columns % whole == 0 {
            return kernel(operands, steps, target.cast(), row_stride, accumulate);
        }
        prefetch_block(rows, epilogue, place, target);
        let mut buffer = Buffer(MaybeUninit::uninit());
        let sums = buffer.0.as_mut_ptr().cast::<f32>();
        if accumulate {
            buffer.0.write([0.0; BLOCK * BLOCK]);
            for row in 0..rows {
                let source = target.cast::<f32>().wrapping_add(row * row_stride);
                std::ptr::copy_nonoverlapping(source, sums.add(row * BLOCK), columns);
            }
        }
        kernel(operands, steps, sums, BLOCK, accumulate);
        store_block([rows, columns], sums, epilogue, place, target);
    }
}

/// The product of two blocks of 2 × 2 tiles on AVX512-BF16: what lies behind an operand's rows or columns is zeros.
///
/// # Safety
/// As for the kernels, and the target has whole blocks.
unsafe fn product_by_dots(
    [left, right, _]: [*const Tile; 3],
    steps: usize,
    target: *mut f32,
    row_stride: usize,
    accumulate: bool,
) {
    // SAFETY: the caller's promises; that this is called shows that the processor has the instructions.
    unsafe { dot::product([left, right], steps, target, row_stride, accumulate) }
}

/// The product of a packed left block with right tiles that lie in a panel, 32 × 32 elements; see the [`kernels`].
///
/// # Safety
/// As for the kernels.
pub(crate) unsafe fn product_with_panel<C: Cut>(
    operands: [*const Tile; 2],
    panel: *const u32,
    strides: [usize; 2],
    offsets: &[usize],
    target: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match C::PARTS {
            1 if !available() => {
                dot::product_with_panel(operands[0], panel, strides[0], offsets, target, row_stride);
            }
            1 => product_with_panel_of_1(operands, panel, strides, offsets, target, row_stride),
            _ => product_with_panel_of_3(operands, panel, strides, offsets, target, row_stride),
        }
    }
}

/// Adds the product of left tiles that lie in a panel with packed right tiles to 32 × 32 elements; see the [`kernels`].
///
/// # Safety
/// As for the kernels.
pub(crate) unsafe fn add_product_of_panel<C: Cut>(
    panel: *const u16,
    strides: [usize; 2],
    right: *const Tile,
    steps: usize,
    target: *mut f32,
    row_stride: usize,
) {
    // SAFETY: the caller's promises.
    unsafe {
        match C::PARTS {
            1 if !available() => {
                dot::add_product_of_panel(panel, strides[0], right, steps, target, row_stride);
            }
            1 => add_product_of_panel_of_1(panel, strides, right, steps, target, row_stride),
            _ => add_product_of_panel_of_3(panel, strides, right, steps, target, row_stride),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::cut::Exact;

    #[test]
    fn a_thread_cannot_take_its_registers_twice_but_again_after_giving_them_back() {
        if !available() {
            return;
        }
        // SAFETY: AMX is available.
        let take = || unsafe { Registers::take::<Exact>() };
        let first = take();
        assert!(std::panic::catch_unwind(|| drop(take())).is_err());
        // Every thread has registers of its own.
        std::thread::spawn(move || drop(take())).join().expect("another thread takes its own");
        drop(first);
        drop(take());
    }
}

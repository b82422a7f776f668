//! Products of blocks of tiles, in assembly: Rust has no stable intrinsics for AMX.
//!
//! Sums are in the registers 0 to 3, left tiles in 4 and 5, right tiles in 6 and 7. No register keeps a value from one
//! piece of assembly to the next, and each declares that it writes them all.

use crate::matrix::split::{TILE, Tile};
use std::arch::asm;

/// Defines the product of a block of left and a block of right tiles.
macro_rules! product {
    ($name:ident, left $load_left:ident, right $load_right:ident, sums $sums:ident) => {
        /// The product of a block of left and a block of right tiles. Every step asks for 1 KiB of the memory at
        /// `ahead`, which need not be there.
        ///
        /// # Safety
        /// This thread holds the [`Registers`](super::Registers); left and right have `steps` steps, at least one;
        /// the target's whole tiles are the caller's alone, and written where they are added to.
        #[inline]
        pub(super) unsafe fn $name(
            [left, right, ahead]: [*const Tile; 3],
            steps: usize,
            target: *mut f32,
            row_stride: usize,
            accumulate: bool,
        ) {
            // SAFETY: the caller's promises.
            unsafe {
                tile_asm!(
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
            "prefetcht1 [{ahead}+",
            $first,
            "]\nprefetcht1 [{ahead}+",
            $second,
            "]\nprefetcht1 [{ahead}+",
            $third,
            "]"
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
/// This thread holds the [`Registers`](super::Registers); there is at least one offset; all tiles lie inside their
/// memory; the target's elements are the caller's alone.
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
    // SAFETY: the caller's promises.
    unsafe {
        tile_asm!(
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
    // SAFETY: the caller's promises.
    unsafe {
        tile_asm!(
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

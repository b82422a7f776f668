//! Products of blocks of tiles, in assembly: Rust has no stable intrinsics for AMX.
//!
//! Sums are in the registers 0 to 3, left tiles in 4 and 5, right tiles in 6 and 7. No register keeps a value from one
//! piece of assembly to the next, and each declares that it writes them all.

use crate::matrix::split::{TILE, Tile};
use std::arch::asm;

/// Defines the product of a block of left and a block of right tiles.
macro_rules! product {
    ($name:ident, $step:ident, left $load_left:ident, right $load_right:ident, sums $sums:ident) => {
        /// The product of a block of left and a block of right tiles. Every step asks for a part of the memory at
        /// `ahead`, which need not be there: 1 KiB if numbers have three parts, 256 bytes if they have one.
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
                    $step!($load_left, $load_right, $sums),
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

/// A step of the inner dimension with numbers in three parts: the six largest products of parts.
macro_rules! step_of_3 {
    ($load_left:ident, $load_right:ident, $sums:ident) => {
        concat!(
            $load_left!("0", "1024"),
            $load_right!("0", "1024"),
            $sums!("add"),
            prefetch!("0", "64", "128"),
            $load_right!("4096", "5120"),
            $sums!("add"),
            prefetch!("192", "256", "320"),
            $load_right!("2048", "3072"),
            $sums!("add"),
            prefetch!("384", "448", "512"),
            $load_left!("2048", "3072"),
            $sums!("add"),
            prefetch!("576", "640", "704"),
            $load_right!("0", "1024"),
            $sums!("add"),
            prefetch!("768", "832", "896"),
            $load_left!("4096", "5120"),
            $sums!("add"),
            prefetch!("960", "960", "960"),
            "add {left}, 6144\nadd {right}, 6144\nadd {ahead}, 1024",
        )
    };
}

/// A step of the inner dimension with numbers in one part.
macro_rules! step_of_1 {
    ($load_left:ident, $load_right:ident, $sums:ident) => {
        concat!(
            $load_left!("0", "1024"),
            $load_right!("0", "1024"),
            $sums!("add"),
            prefetch!("0", "64", "128"),
            prefetch!("192", "192", "192"),
            "add {left}, 2048\nadd {right}, 2048\nadd {ahead}, 256",
        )
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
            "]\n"
        )
    };
}

macro_rules! left_pair {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm4, [{left}+{row}+", $first, "]\ntileloadd tmm5, [{left}+{row}+", $second, "]\n")
    };
}
macro_rules! left_single {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm4, [{left}+{row}+", $first, "]\n")
    };
}
macro_rules! right_pair {
    ($first:literal, $second:literal) => {
        concat!(
            "tileloadd tmm6, [{right}+{row}+",
            $first,
            "]\ntileloadd tmm7, [{right}+{row}+",
            $second,
            "]\n"
        )
    };
}
macro_rules! right_single {
    ($first:literal, $second:literal) => {
        concat!("tileloadd tmm6, [{right}+{row}+", $first, "]\n")
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

product!(product_2x2_of_3, step_of_3, left left_pair, right right_pair, sums all_four);
product!(product_2x1_of_3, step_of_3, left left_pair, right right_single, sums left_column);
product!(product_1x2_of_3, step_of_3, left left_single, right right_pair, sums upper_pair);
product!(product_1x1_of_3, step_of_3, left left_single, right right_single, sums upper_left);
product!(product_2x2_of_1, step_of_1, left left_pair, right right_pair, sums all_four);
product!(product_2x1_of_1, step_of_1, left left_pair, right right_single, sums left_column);
product!(product_1x2_of_1, step_of_1, left left_single, right right_pair, sums upper_pair);
product!(product_1x1_of_1, step_of_1, left left_single, right right_single, sums upper_left);

/// Defines the product of a packed left block with right tiles that lie in a panel.
macro_rules! product_with_panel {
    ($name:ident, $step:ident) => {
        /// The product of a packed left block with right tiles that lie in a panel, 32 × 32 elements.
        ///
        /// A panel holds rows of pairs, `row_bytes` apart, of the parts, which are `part_bytes` apart. Step *i* of the inner
        /// dimension takes its 16 rows from byte `offsets[i]` on, and asks for a part of the memory at `ahead`, which
        /// need not be there.
        ///
        /// # Safety
        /// This thread holds the [`Registers`](super::Registers); there is at least one offset; all tiles lie inside their
        /// memory; the target's elements are the caller's alone.
        pub(super) unsafe fn $name(
            [left, ahead]: [*const Tile; 2],
            panel: *const u32,
            [row_bytes, part_bytes]: [usize; 2],
            offsets: &[usize],
            target: *mut f32,
            row_stride: usize,
        ) {
            // Rows of the panel begin anywhere in a cache line and load slower than the left tiles: their tiles are
            // loaded once a step.
            // SAFETY: the caller's promises.
            unsafe {
                tile_asm!(
                    "lea {other}, [{target} + {stride}*8]",
                    "lea {other}, [{other} + {stride}*8]",
                    all_four!("zero"),
                    "2:",
                    "mov {place}, [{offsets}]",
                    "add {place}, {panel}",
                    $step!(),
                    "add {offsets}, 8",
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
    };
}

/// The tiles of a panel from `place` on.
macro_rules! panel_pair {
    ($place:literal) => {
        concat!("tileloadd tmm6, [", $place, "+{row_bytes}]\ntileloadd tmm7, [", $place, "+{row_bytes}+64]\n")
    };
}

macro_rules! panel_step_of_3 {
    () => {
        concat!(
            left_pair!("4096", "5120"),
            panel_pair!("{place}"),
            all_four!("add"),
            prefetch!("0", "64", "128"),
            left_pair!("2048", "3072"),
            all_four!("add"),
            prefetch!("192", "256", "320"),
            left_pair!("0", "1024"),
            all_four!("add"),
            prefetch!("384", "448", "512"),
            "lea {part_place}, [{place}+{part_bytes}*2]\n",
            panel_pair!("{part_place}"),
            all_four!("add"),
            prefetch!("576", "640", "704"),
            "lea {part_place}, [{place}+{part_bytes}]\n",
            panel_pair!("{part_place}"),
            all_four!("add"),
            prefetch!("768", "832", "896"),
            left_pair!("2048", "3072"),
            all_four!("add"),
            prefetch!("960", "960", "960"),
            "add {left}, 6144\nadd {ahead}, 1024",
        )
    };
}

macro_rules! panel_step_of_1 {
    () => {
        concat!(
            left_pair!("0", "1024"),
            panel_pair!("{place}"),
            all_four!("add"),
            prefetch!("0", "64", "128"),
            prefetch!("192", "192", "192"),
            // There is no other part; registers must be named in assembly.
            "/* {part_place} {part_bytes} */\n",
            "add {left}, 2048\nadd {ahead}, 256",
        )
    };
}

product_with_panel!(product_with_panel_of_3, panel_step_of_3);
product_with_panel!(product_with_panel_of_1, panel_step_of_1);

/// Defines the sum with the product of left tiles that lie in a panel and packed right tiles.
macro_rules! add_product_of_panel {
    ($name:ident, $step:ident) => {
        /// Adds the product of left tiles that lie in a panel with packed right tiles to 32 × 32 elements.
        ///
        /// A panel's rows, `row_bytes` apart, hold numbers side by side, of the parts, which are `part_bytes` apart; a
        /// step of the inner dimension is 64 bytes further on.
        ///
        /// # Safety
        /// This thread holds the [`Registers`](super::Registers); there is at least one step; all tiles lie inside their
        /// memory; the target's elements are the caller's alone and have been written.
        pub(super) unsafe fn $name(
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
                    $step!(),
                    "add {upper}, 64",
                    "add {lower_rows}, 64",
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
    };
}

/// The left tiles of a part of a panel, `distance` from the first one.
macro_rules! panel_rows {
    () => {
        "tileloadd tmm4, [{upper}+{row_bytes}]\ntileloadd tmm5, [{lower_rows}+{row_bytes}]\n"
    };
    ($distance:literal) => {
        concat!(
            "lea {place}, [{upper}+",
            $distance,
            "]\ntileloadd tmm4, [{place}+{row_bytes}]\nlea {place}, [{lower_rows}+",
            $distance,
            "]\ntileloadd tmm5, [{place}+{row_bytes}]\n"
        )
    };
}

macro_rules! rows_step_of_3 {
    () => {
        concat!(
            panel_rows!(),
            right_pair!("0", "1024"),
            all_four!("add"),
            right_pair!("4096", "5120"),
            all_four!("add"),
            right_pair!("2048", "3072"),
            all_four!("add"),
            panel_rows!("{part_bytes}"),
            all_four!("add"),
            right_pair!("0", "1024"),
            all_four!("add"),
            panel_rows!("{part_bytes}*2"),
            all_four!("add"),
            "add {right}, 6144",
        )
    };
}

macro_rules! rows_step_of_1 {
    () => {
        concat!(
            panel_rows!(),
            right_pair!("0", "1024"),
            all_four!("add"),
            // There is no other part; registers must be named in assembly.
            "/* {place} {part_bytes} */\n",
            "add {right}, 2048",
        )
    };
}

add_product_of_panel!(add_product_of_panel_of_3, rows_step_of_3);
add_product_of_panel!(add_product_of_panel_of_1, rows_step_of_1);

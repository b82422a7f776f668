//! The allocator of the program: a cache of large blocks over the system's allocator.
//!
//! The C library gives large blocks back to the kernel as soon as they are freed, and the kernel clears every
//! page anew when the next tensor first touches it; that costs as much time as many an operator. A training
//! step asks for the same sizes again and again, so freed blocks are kept, by size class, and handed out again.
//! Blocks lie on huge pages where the kernel has them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Smaller blocks are the system allocator's, in bytes.
const SMALLEST: usize = 256 << 10;
/// Size and alignment of a huge page, bytes.
const HUGE_PAGE: usize = 2 << 20;
/// What the kernel aligns a mapping to at least, bytes.
const PAGE: usize = 4096;
/// Size classes in each doubling; a block is at most a sixteenth larger than asked for.
const STEPS: usize = 16;
/// From 2^18 to 2^47 bytes, all that the processor can address.
const CLASSES: usize = 29 * STEPS + 1;

/// The sizes that blocks have: sixteen steps to a doubling, from [`SMALLEST`] on.
#[derive(Clone, Copy)]
struct Class(usize);

impl Class {
    /// The class of a layout, or none where the system allocator serves it.
    fn of(layout: Layout) -> Option<Self> {
        let size = layout.size();
        if size < SMALLEST || layout.align() > PAGE || size > 1 << 46 {
            return None;
        }
        let octave = size.ilog2();
        let step = 1 << (octave - STEPS.ilog2());
        let steps = (size - (1 << octave)).div_ceil(step);
        Some(Self((octave - SMALLEST.ilog2()) as usize * STEPS + steps))
    }

    /// Bytes of a block.
    fn capacity(self) -> usize {
        (SMALLEST << (self.0 / STEPS)) / STEPS * (STEPS + self.0 % STEPS)
    }
}

/// What a block holds while it is cached: its neighbours in the list of its class.
struct Header {
    newer: Option<NonNull<Header>>,
    older: Option<NonNull<Header>>,
    /// When the block was freed, in frees.
    freed: u64,
}

/// The cached blocks of a class; the newest is handed out first, the oldest is given up first.
#[derive(Clone, Copy)]
struct List {
    newest: Option<NonNull<Header>>,
    oldest: Option<NonNull<Header>>,
}

struct Cache {
    lists: [List; CLASSES],
    /// Bytes of the blocks in use, the most that ever were, and bytes of the cached blocks.
    used: usize,
    peak: usize,
    cached: usize,
    frees: u64,
}

// SAFETY: the pointers are to blocks that only the cache owns.
unsafe impl Send for Cache {}

impl Cache {
    const fn new() -> Self {
        let lists = [List { newest: None, oldest: None }; CLASSES];
        Self { lists, used: 0, peak: 0, cached: 0, frees: 0 }
    }

    /// A cached block of a class.
    fn take(&mut self, class: Class) -> Option<NonNull<Header>> {
        let block = self.lists[class.0].newest?;
        self.unlink(class, block);
        Some(block)
    }

    fn unlink(&mut self, class: Class, block: NonNull<Header>) {
        // SAFETY: the block is cached, so it and its neighbours hold headers.
        unsafe {
            let Header { newer, older, .. } = *block.as_ref();
            match newer {
                Some(mut newer) => newer.as_mut().older = older,
                None => self.lists[class.0].newest = older,
            }
            match older {
                Some(mut older) => older.as_mut().newer = newer,
                None => self.lists[class.0].oldest = newer,
            }
        }
        self.cached -= class.capacity();
    }

    fn put(&mut self, class: Class, block: NonNull<Header>) {
        let list = &mut self.lists[class.0];
        let older = list.newest.replace(block);
        self.frees += 1;
        // SAFETY: the block was handed back, and is large and aligned enough for a header.
        unsafe { block.write(Header { newer: None, older, freed: self.frees }) };
        match older {
            // SAFETY: cached blocks hold headers.
            Some(mut older) => unsafe { older.as_mut().newer = Some(block) },
            None => list.oldest = Some(block),
        }
        self.cached += class.capacity();
    }

    /// Gives up cached blocks until one more block keeps the program within an eighth above the most memory that
    /// it ever used at one time.
    fn make_room(&mut self, bytes: usize) {
        let peak = self.peak.max(self.used + bytes);
        self.give_up(peak + peak / 8 - self.used - bytes);
    }

    /// Unmaps the blocks that were not used for longest until at most so many bytes are cached.
    fn give_up(&mut self, kept: usize) {
        while self.cached > kept {
            // SAFETY: cached blocks hold headers.
            let freed =
                |class: &usize| self.lists[*class].oldest.map(|block| unsafe { block.as_ref().freed });
            let Some(class) = (0..CLASSES).filter(|class| freed(class).is_some()).min_by_key(freed) else {
                return;
            };
            let Some(block) = self.lists[class].oldest else { return };
            self.unlink(Class(class), block);
            // SAFETY: a mapping of this size that nobody uses.
            unsafe { libc::munmap(block.as_ptr().cast(), Class(class).capacity()) };
        }
    }
}

/// Keeps freed large blocks for later ones of like size.
pub struct CachingAllocator {
    cache: Mutex<Cache>,
}

impl CachingAllocator {
    /// An allocator that holds nothing.
    pub const fn new() -> Self {
        Self { cache: Mutex::new(Cache::new()) }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block and whether it is known to hold zeros; null where there is no memory.
    fn block(&self, class: Class) -> (*mut u8, bool) {
        let bytes = class.capacity();
        let mut cache = self.cache();
        let cached = cache.take(class);
        if cached.is_none() {
            cache.make_room(bytes);
        }
        cache.used += bytes;
        cache.peak = cache.peak.max(cache.used);
        drop(cache);
        match cached {
            Some(block) => (block.as_ptr().cast(), false),
            None => (self.fresh(bytes), true),
        }
    }

    /// A fresh block, for which the cached ones make room if need be; null where there is no memory.
    fn fresh(&self, bytes: usize) -> *mut u8 {
        let mut block = map(bytes);
        if block.is_null() {
            let mut cache = self.cache();
            cache.give_up(0);
            block = map(bytes);
            if block.is_null() {
                cache.used -= bytes;
            }
        }
        block
    }
}

/// A fresh mapping, on huge pages as far as it fills them; null where there is no memory.
fn map(bytes: usize) -> *mut u8 {
    let spare = if bytes < HUGE_PAGE { 0 } else { HUGE_PAGE };
    // SAFETY: a new private mapping; what is cut off its ends is nobody's.
    unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let start = libc::mmap(ptr::null_mut(), bytes + spare, access, kind, -1, 0);
        if start == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        if spare == 0 {
            return start.cast();
        }
        let before = start.addr().next_multiple_of(HUGE_PAGE) - start.addr();
        let block = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        if before < spare {
            libc::munmap(block.byte_add(bytes), spare - before);
        }
        libc::madvise(block, bytes / HUGE_PAGE * HUGE_PAGE, libc::MADV_HUGEPAGE);
        block.cast()
    }
}

// SAFETY: a block belongs to one caller from `alloc` to `dealloc`; its class, and so its size, follows from the
// layout, which is the same in both; every block is aligned to a page.
unsafe impl GlobalAlloc for CachingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match Class::of(layout) {
            Some(class) => self.block(class).0,
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match Class::of(layout) {
            Some(class) => {
                let (block, zeros) = self.block(class);
                if !zeros {
                    // SAFETY: the block has at least this size.
                    unsafe { block.write_bytes(0, layout.size()) };
                }
                block
            }
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match (Class::of(layout), NonNull::new(block.cast())) {
            (Some(class), Some(block)) => {
                let mut cache = self.cache();
                cache.used -= class.capacity();
                cache.put(class, block);
            }
            // SAFETY: the caller's promise.
            _ => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size does not overflow with this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (Class::of(layout), Class::of(wanted)) {
            (None, None) => {
                // SAFETY: the caller's promise.
                return unsafe { System.realloc(block, layout, size) };
            }
            (Some(old), Some(new)) if old.0 == new.0 => return block,
            _ => {}
        }
        // SAFETY: both blocks have at least the bytes that are copied, and the old one is the caller's.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(block, layout.size().min(size));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 64).unwrap()
    }

    #[test]
    fn classes_hold_what_is_asked_for_and_waste_at_most_a_sixteenth() {
        assert!(Class::of(layout(SMALLEST - 1)).is_none());
        assert!(Class::of(Layout::from_size_align(1 << 20, 2 * PAGE).unwrap()).is_none());
        for size in
            (0..40).flat_map(|n| [SMALLEST + n * 7919, (SMALLEST << (n / 2)) - 1 + n, 1 << (18 + n / 2)])
        {
            let Some(class) = Class::of(layout(size)) else { continue };
            let capacity = class.capacity();
            assert!(class.0 < CLASSES && capacity.is_multiple_of(PAGE));
            assert!((size..=size + size / STEPS + PAGE).contains(&capacity), "{capacity} for {size}");
        }
    }

    #[test]
    fn a_freed_block_is_handed_out_again_and_cleared_on_request() {
        let allocator = CachingAllocator::new();
        // SAFETY: blocks are freed once, with their layouts, and written within them.
        unsafe {
            let block = allocator.alloc(layout(3 << 20));
            assert_eq!(block.addr() % HUGE_PAGE, 0);
            block.write_bytes(7, 3 << 20);
            allocator.dealloc(block, layout(3 << 20));
            let again = allocator.alloc_zeroed(layout((3 << 20) - 5));
            assert_eq!(again, block);
            assert!(std::slice::from_raw_parts(again, (3 << 20) - 5).iter().all(|&byte| byte == 0));
            allocator.dealloc(again, layout((3 << 20) - 5));
        }
    }

    #[test]
    fn a_block_that_grows_or_shrinks_keeps_its_bytes() {
        let allocator = CachingAllocator::new();
        // SAFETY: as above.
        unsafe {
            let mut size = 1000;
            let mut block = allocator.alloc(layout(size));
            block.write_bytes(3, size);
            for wanted in [300 << 10, (300 << 10) + 9, 5 << 20, 400 << 10, 2000] {
                block = allocator.realloc(block, layout(size), wanted);
                size = wanted;
                assert!(std::slice::from_raw_parts(block, 1000).iter().all(|&byte| byte == 3));
            }
            allocator.dealloc(block, layout(size));
        }
    }

    #[test]
    fn cached_blocks_are_given_up_before_memory_grows_an_eighth_above_the_peak() {
        let allocator = CachingAllocator::new();
        let total = |allocator: &CachingAllocator| {
            let cache = allocator.cache();
            (cache.used + cache.cached, cache.peak)
        };
        // SAFETY: as above.
        unsafe {
            for size in (1..40).map(|n| n * (300 << 10)) {
                let blocks = [(); 3].map(|()| allocator.alloc(layout(size)));
                let (held, peak) = total(&allocator);
                assert!(held <= peak + peak / 8, "{held} of {peak}");
                blocks.into_iter().for_each(|block| allocator.dealloc(block, layout(size)));
            }
        }
        assert_eq!(allocator.cache().used, 0);
    }
}

//! Buffers that a thread uses again for its next image.
//!
//! Preparing an image takes half a dozen large buffers. Fresh ones come from the operating system, which clears every page.

use std::cell::RefCell;

use image::RgbImage;

/// Buffers that a thread keeps at most.
const KEPT: usize = 6;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Hands over an image whose memory a later one on this thread may use.
pub fn recycle(image: RgbImage) {
    give(image.into_raw());
}

/// An image of any content.
pub(super) fn image(width: u32, height: u32) -> RgbImage {
    let len = 3 * width as usize * height as usize;
    RgbImage::from_raw(width, height, bytes(len)).expect("three bytes a pixel")
}

/// A buffer of `len` bytes of any content.
pub(super) fn bytes(len: usize) -> Vec<u8> {
    let mut buffer = take(len);
    buffer.resize(len, 0);
    buffer
}

/// The smallest kept buffer with room for `len` bytes, or a new one.
pub(super) fn take(len: usize) -> Vec<u8> {
    BUFFERS.with_borrow_mut(|buffers| {
        let fitting = (0..buffers.len()).filter(|&i| buffers[i].capacity() >= len);
        match fitting.min_by_key(|&i| buffers[i].capacity()) {
            Some(i) => buffers.swap_remove(i),
            None => Vec::with_capacity(len),
        }
    })
}

/// Keeps a buffer; when there are enough, the smallest is given up.
pub(super) fn give(buffer: Vec<u8>) {
    BUFFERS.with_borrow_mut(|buffers| {
        buffers.push(buffer);
        if buffers.len() > KEPT
            && let Some(i) = (0..buffers.len()).min_by_key(|&i| buffers[i].capacity())
        {
            buffers.swap_remove(i);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_image_lends_its_memory_to_the_next_one_that_fits() {
        let (small, large) = (RgbImage::new(10, 10), RgbImage::new(20, 20));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        recycle(large);
        recycle(small);
        assert_eq!(image(9, 11).as_ptr(), small_at, "the smaller of two that fit");
        assert_eq!(image(9, 11).as_ptr(), large_at);
        assert_eq!(image(9, 11).dimensions(), (9, 11));
    }

    #[test]
    fn a_thread_keeps_a_few_of_the_largest_buffers() {
        (1..=20).for_each(|side| recycle(RgbImage::new(side, side)));
        let smallest = (0..KEPT).map(|_| take(0).capacity()).min();
        assert_eq!(smallest, Some(3 * 15 * 15));
        assert_eq!(take(0).capacity(), 0);
    }
}

//! Packed weights that are kept from one inference to the next.
//!
//! Packing a network's weights takes as long as the products of a few images. While a [`KeptWeights`] lives, weights that
//! convolutions have packed stay. An entry holds its tensor: as long as it does, nobody writes over the tensor's memory, so
//! that a weight is known by where it lies.

use crate::cpu::values;
use burn::backend::TensorMetadata;
use burn_flex::FlexTensor;
use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// Where a weight lies, how large it is, and how it is packed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    address: usize,
    shape: [usize; 4],
    layout: Layout,
}

/// How a weight, `[O, C, KH, KW]`, is packed; each way has a type of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Layout {
    /// `[O, C · taps]` in so many parts.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Rows(usize),
    /// `[O, C]` of so many taps by turns in so many parts.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Taps(usize, usize),
    /// Transformed as Winograd's method wants it.
    Points,
}

#[derive(Default)]
struct Kept {
    holders: usize,
    weights: HashMap<Key, (FlexTensor, Arc<dyn Any + Send + Sync>)>,
}

static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);

fn kept() -> MutexGuard<'static, Kept> {
    // Entries are inserted whole, so a thread that has panicked leaves nothing half done.
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps packed weights until it is dropped; several may live at a time.
#[must_use = "weights are kept as long as it lives"]
pub struct KeptWeights(());

impl KeptWeights {
    pub(crate) fn new() -> Self {
        kept().holders += 1;
        Self(())
    }
}

impl Drop for KeptWeights {
    fn drop(&mut self) {
        let mut kept = kept();
        kept.holders -= 1;
        if kept.holders == 0 {
            let weights = std::mem::take(&mut kept.weights);
            // Tensors are dropped without the lock.
            drop(kept);
            drop(weights);
        }
    }
}

/// The packed weight of a contiguous tensor, `[O, C, KH, KW]`: one that is kept, or a new one.
pub(crate) fn packed<P: Send + Sync + 'static>(
    tensor: &FlexTensor,
    layout: Layout,
    pack: impl FnOnce() -> P,
) -> Arc<P> {
    let address = values::<f32>(tensor).as_ptr().addr();
    let key = Key { address, shape: tensor.shape().dims(), layout };
    {
        let kept = kept();
        if kept.holders == 0 {
            drop(kept);
            return Arc::new(pack());
        }
        if let Some((_, packed)) = kept.weights.get(&key) {
            return packed.clone().downcast().expect("a layout has one type");
        }
    }
    let packed = Arc::new(pack());
    let mut kept = kept();
    if kept.holders > 0 {
        kept.weights.insert(key, (tensor.clone(), packed.clone()));
    }
    packed
}

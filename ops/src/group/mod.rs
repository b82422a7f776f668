//! Processes that train one model together.
//!
//! Libraries see a [`Group`]. Who runs several processes implements [`Collective`] by what connects them; [`threads`] connects
//! threads of one process.

mod threads;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::{Tensor, TensorData};

pub use threads::threads;

/// What connects the processes of a group, its ranks.
///
/// Every rank makes the same calls in the same order with values of the same length, from one thread at a time. Results are the
/// same on every rank, to the bit. A call returns when all ranks have made it; where one of them is gone, it does not return but
/// ends the process or panics.
pub trait Collective: Debug + Send + Sync {
    /// The number of this process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Replaces each value by its sum over the ranks.
    fn sum_f32(&self, values: &mut [f32]);

    /// Replaces each value by its sum over the ranks.
    fn sum_f64(&self, values: &mut [f64]);

    /// Replaces each value by the largest of the ranks.
    fn max(&self, values: &mut [u64]);

    /// Replaces the bytes by those of rank `root`. Lengths may differ.
    fn broadcast(&self, root: usize, bytes: &mut Vec<u8>);

    /// The bytes of each rank, in their order. Lengths may differ.
    fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>>;
}

/// The processes that train one model, or one process alone.
///
/// Alone, every method returns what it is given and costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Group(Option<Arc<Connected>>);

#[derive(Debug)]
struct Connected {
    collective: Box<dyn Collective>,
    /// Calls so far, which debug builds compare.
    calls: AtomicU64,
}

/// The calls of a [`Collective`], which the ranks of a debug build compare.
#[derive(Clone, Copy, Debug)]
enum Call {
    SumF32,
    SumF64,
    Max,
    Broadcast,
    AllGather,
}

impl Group {
    /// One process.
    pub const ALONE: Group = Group(None);

    /// One process.
    pub fn alone() -> Self {
        Self::ALONE
    }

    /// The processes that `collective` connects. One process is alone.
    pub fn new(collective: impl Collective + 'static) -> Self {
        if collective.size() == 1 {
            return Self::alone();
        }
        Self(Some(Arc::new(Connected { collective: Box::new(collective), calls: AtomicU64::new(0) })))
    }

    /// Whether this is the only process.
    pub fn is_alone(&self) -> bool {
        self.0.is_none()
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |connected| connected.collective.rank())
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.0.as_ref().map_or(1, |connected| connected.collective.size())
    }

    /// Whether this process writes the files.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// Replaces each value by its sum over the ranks.
    pub fn sum_f32(&self, values: &mut [f32]) {
        if let Some(collective) = self.call(Call::SumF32, values.len()) {
            collective.sum_f32(values);
        }
    }

    /// Replaces each value by its sum over the ranks.
    pub fn sum_f64(&self, values: &mut [f64]) {
        if let Some(collective) = self.call(Call::SumF64, values.len()) {
            collective.sum_f64(values);
        }
    }

    /// The sum of a number over the ranks.
    pub fn sum(&self, value: usize) -> usize {
        let mut values = [value as f64];
        self.sum_f64(&mut values);
        values[0] as usize
    }

    /// The largest number of the ranks.
    pub fn max(&self, value: u64) -> u64 {
        let mut values = [value];
        self.max_each(&mut values);
        values[0]
    }

    /// Replaces each value by the largest of the ranks.
    pub fn max_each(&self, values: &mut [u64]) {
        if let Some(collective) = self.call(Call::Max, values.len()) {
            collective.max(values);
        }
    }

    /// Whether it holds on any rank.
    pub fn any(&self, holds: bool) -> bool {
        self.max(u64::from(holds)) == 1
    }

    /// The bytes of rank 0; other ranks' are not used.
    pub fn broadcast(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        if let Some(collective) = self.call(Call::Broadcast, 0) {
            collective.broadcast(0, &mut bytes);
        }
        bytes
    }

    /// The bytes of each rank, in their order.
    pub fn all_gather(&self, bytes: &[u8]) -> Vec<Vec<u8>> {
        match self.call(Call::AllGather, 0) {
            Some(collective) => collective.all_gather(bytes),
            None => vec![bytes.to_vec()],
        }
    }

    /// The numbers of all ranks, one rank's after the other's, however many each has.
    pub fn gather<T: bytemuck::Pod>(&self, own: &[T]) -> Vec<T> {
        if self.is_alone() {
            return own.to_vec();
        }
        bytemuck::pod_collect_to_vec(&self.all_gather(bytemuck::cast_slice(own)).concat())
    }

    /// The sum of a tensor of 32-bit numbers over the ranks, by way of the host. Gradients do not go through it.
    pub fn sum_tensor<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        if self.is_alone() {
            return tensor;
        }
        let (shape, device) = (tensor.dims(), tensor.device());
        let mut values = tensor.into_data().try_to_vec::<f32>().expect("a tensor of 32-bit numbers");
        self.sum_f32(&mut values);
        Tensor::from_data(TensorData::new(values, shape), &device)
    }

    /// The rows of the ranks, in their order, by way of the host: `[rows, columns]` of each, however many. Gradients do not go
    /// through it.
    pub fn gather_rows(&self, tensor: Tensor<2>) -> Tensor<2> {
        if self.is_alone() {
            return tensor;
        }
        let ([_, columns], device) = (tensor.dims(), tensor.device());
        let values = tensor.into_data().try_to_vec::<f32>().expect("a tensor of 32-bit numbers");
        let values = self.gather(&values);
        let rows = values.len() / columns.max(1);
        Tensor::from_data(TensorData::new(values, [rows, columns]), &device)
    }

    /// Waits for every rank.
    pub fn wait(&self) {
        self.max(0);
    }

    /// What makes a call, where there are others.
    ///
    /// # Panics
    /// In debug builds, if the ranks make different calls.
    fn call(&self, call: Call, length: usize) -> Option<&dyn Collective> {
        let Connected { collective, calls } = self.0.as_deref()?;
        let number = calls.fetch_add(1, Ordering::Relaxed);
        if cfg!(debug_assertions) {
            let own = format!("call {number}: {call:?} of {length} values");
            let all = collective.all_gather(own.as_bytes());
            for (rank, other) in all.iter().enumerate() {
                let other = String::from_utf8_lossy(other);
                assert!(
                    other == own,
                    "rank {rank} makes another call than rank {}: {other}; {own}",
                    self.rank()
                );
            }
        }
        Some(&**collective)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn alone_nothing_changes() {
        let group = Group::alone();
        let mut values = [0.1f32, 0.2];
        group.sum_f32(&mut values);
        assert_eq!((values, group.sum(3), group.max(4), group.size()), ([0.1, 0.2], 3, 4, 1));
        assert_eq!(group.all_gather(b"ab"), [b"ab".to_vec()]);
        assert_eq!(group.gather(&[1.5f32, 2.0]), [1.5, 2.0]);
        assert_eq!(group.broadcast(b"c".to_vec()), b"c");
        assert!(group.is_root() && group.any(true) && !group.any(false));
    }

    #[test]
    fn every_rank_gets_the_same() {
        for size in 1..=4 {
            let results = threads(size, |group| {
                let rank = group.rank();
                let mut sums = [0.1 * (rank + 1) as f32, 1e8, -1e8];
                group.sum_f32(&mut sums);
                let mut largest = [rank as u64, 7];
                group.max_each(&mut largest);
                let tensor = Tensor::<1>::from_floats([rank as f32, 2.0], &Device::default());
                let tensor = group.sum_tensor(tensor).into_data().try_to_vec::<f32>().unwrap();
                let rows = Tensor::<2>::full([rank, 2], rank as f32, &Device::default());
                let rows = group.gather_rows(rows).into_data().try_to_vec::<f32>().unwrap();
                let gathered = group.all_gather(&vec![rank as u8; rank]);
                (sums.map(f32::to_bits), largest, tensor, rows, gathered, group.broadcast(vec![rank as u8]))
            });
            assert_eq!(results.len(), size);
            let (sums, largest, tensor, rows, gathered, root) = &results[0];
            assert!(results.iter().all(|result| result == &results[0]));
            let expected: f32 = (1..=size).map(|rank| 0.1 * rank as f32).sum();
            assert!((f32::from_bits(sums[0]) - expected).abs() < 1e-6);
            assert_eq!(largest, &[size as u64 - 1, 7]);
            assert_eq!(tensor, &[(0..size).sum::<usize>() as f32, 2.0 * size as f32]);
            let expected: Vec<f32> = (0..size).flat_map(|rank| vec![rank as f32; 2 * rank]).collect();
            assert_eq!((rows, root), (&expected, &vec![0]));
            let expected: Vec<Vec<u8>> = (0..size).map(|rank| vec![rank as u8; rank]).collect();
            assert_eq!(gathered, &expected);
        }
    }

    #[test]
    #[should_panic = "rank 1 fails"]
    fn a_rank_that_panics_ends_the_others() {
        threads(3, |group| {
            assert!(group.rank() != 1, "rank 1 fails");
            group.sum(1)
        });
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic = "makes another call"]
    fn debug_builds_find_ranks_that_make_different_calls() {
        threads(2, |group| if group.is_root() { group.sum(1) } else { group.max(1) as usize });
    }
}

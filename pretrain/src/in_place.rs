//! A network that training changes in place.

/// Holds a network so that [`change`](Self::change) can pass it on by value: parameters without another holder are then
/// changed in place.
///
/// A change that panics loses the network, and every later use panics too.
#[derive(Debug)]
pub(crate) struct InPlace<T>(Option<T>);

impl<T> InPlace<T> {
    pub(crate) fn new(network: T) -> Self {
        Self(Some(network))
    }

    /// The network.
    ///
    /// # Panics
    /// If a change panicked.
    pub(crate) fn get(&self) -> &T {
        self.0.as_ref().expect("a network is there unless a step panicked")
    }

    /// Replaces the network by what `change` returns.
    ///
    /// # Panics
    /// If an earlier change panicked.
    pub(crate) fn change(&mut self, change: impl FnOnce(T) -> T) {
        let network = self.0.take().expect("a network is there unless a step panicked");
        self.0 = Some(change(network));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_change_takes_effect_and_one_that_panics_leaves_nothing_to_use() {
        let mut network = InPlace::new(vec![1]);
        network.change(|values| values.into_iter().map(|value| value + 1).collect());
        assert_eq!(network.get(), &[2]);
        let failed = catch_unwind(AssertUnwindSafe(|| network.change(|_| panic!("a step fails"))));
        assert!(failed.is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| network.get().len())).is_err());
    }
}

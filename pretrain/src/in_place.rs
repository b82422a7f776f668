//! A network that a step changes as a whole.

/// Holds a network so that [`change`](Self::change) can hand it over: parameters that have no other holder are changed
/// in place.
///
/// A change that panics may have changed a part of the network, which is then gone: every later use panics too.
#[derive(Debug)]
pub(crate) struct Whole<T>(Option<T>);

impl<T> Whole<T> {
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

    /// Puts what `change` makes of the network into its place.
    ///
    /// # Panics
    /// If an earlier change panicked.
    pub(crate) fn change(&mut self, change: impl FnOnce(T) -> T) {
        let network = self.0.take().expect("a network is there unless a step panicked");
        self.0 = Some(change(network));
    }

    /// The network itself.
    ///
    /// # Panics
    /// If a change panicked.
    pub(crate) fn into_inner(self) -> T {
        self.0.expect("a network is there unless a step panicked")
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_change_takes_effect_and_one_that_panics_leaves_nothing_to_use() {
        let mut network = Whole::new(vec![1]);
        network.change(|values| values.into_iter().map(|value| value + 1).collect());
        assert_eq!(network.get(), &[2]);
        let failed = catch_unwind(AssertUnwindSafe(|| network.change(|_| panic!("a step fails"))));
        assert!(failed.is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| network.get().len())).is_err());
    }
}

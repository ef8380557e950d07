//! Bytes that may be buffered at a time: a bound for each worker, and within it one for each connection.

use std::cell::Cell;
use std::rc::Rc;

#[derive(Debug)]
struct BudgetState {
    most: usize,
    used: Cell<usize>,
    /// The budget that this one is a part of.
    whole: Option<ByteBudget>,
}

/// A bound. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ByteBudget(Rc<BudgetState>);

impl ByteBudget {
    /// At most `most` bytes.
    pub fn new(most: usize) -> Self {
        Self(Rc::new(BudgetState {
            most,
            used: Cell::new(0),
            whole: None,
        }))
    }

    /// A part of this budget, itself of at most `most` bytes.
    pub fn part(&self, most: usize) -> Self {
        Self(Rc::new(BudgetState {
            most,
            used: Cell::new(0),
            whole: Some(self.clone()),
        }))
    }

    /// Takes bytes from this budget and from all that it is a part of, or none at all.
    fn take(&self, bytes: usize) -> bool {
        let inner = &*self.0;
        let used = inner.used.get() + bytes;
        if used > inner.most || inner.whole.as_ref().is_some_and(|whole| !whole.take(bytes)) {
            return false;
        }
        inner.used.set(used);
        true
    }

    fn give(&self, bytes: usize) {
        self.0.used.set(self.0.used.get() - bytes);
        if let Some(whole) = &self.0.whole {
            whole.give(bytes);
        }
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.0.used.get()
    }
}

/// What one owner has taken from a budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    of: ByteBudget,
    bytes: usize,
}

impl BudgetShare {
    /// Nothing yet.
    pub(crate) fn new(of: ByteBudget) -> Self {
        Self { of, bytes: 0 }
    }

    /// Takes as much as is missing to have `bytes`; `false`, and unchanged, where the budget has no room for that.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        if !self.of.take(missing) {
            return false;
        }
        self.bytes += missing;
        true
    }

    /// Gives everything back.
    pub(crate) fn clear(&mut self) {
        self.of.give(std::mem::take(&mut self.bytes));
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_bounded_by_itself_and_by_the_whole() {
        let whole = ByteBudget::new(100);
        let (one, other) = (whole.part(60), whole.part(60));
        let mut first = BudgetShare::new(one.clone());
        assert!(!first.grow_to(61), "beyond the part");
        assert!(first.grow_to(60));
        let mut second = BudgetShare::new(other.clone());
        assert!(!second.grow_to(41), "beyond the whole");
        assert!(second.grow_to(40));
        assert_eq!((whole.used(), one.used(), other.used()), (100, 60, 40));
        drop(first);
        assert_eq!((whole.used(), one.used(), other.used()), (40, 0, 40));
        assert!(second.grow_to(60));
        second.clear();
        assert_eq!((whole.used(), other.used()), (0, 0));
    }

    #[test]
    fn only_what_is_missing_is_taken() {
        let budget = ByteBudget::new(10);
        let mut share = BudgetShare::new(budget.clone());
        assert!(share.grow_to(8) && share.grow_to(3) && share.grow_to(10));
        assert_eq!(budget.used(), 10);
        assert!(!share.grow_to(11));
        assert_eq!(budget.used(), 10);
    }
}

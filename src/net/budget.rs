//! Budgets for buffered bytes. Budgets nest: a worker has one for all of its connections, and a connection takes a part of it.

use std::cell::Cell;
use std::rc::Rc;

#[derive(Debug)]
struct BudgetState {
    most: usize,
    used: Cell<usize>,
    parent: Option<ByteBudget>,
}

/// A limit on the number of bytes that its owners hold together. Clones share the budget.
#[derive(Clone, Debug)]
pub struct ByteBudget(Rc<BudgetState>);

impl ByteBudget {
    /// A budget of `most` bytes.
    pub fn new(most: usize) -> Self {
        Self(Rc::new(BudgetState {
            most,
            used: Cell::new(0),
            parent: None,
        }))
    }

    /// A budget of `most` bytes whose bytes are also taken from this one.
    pub fn part(&self, most: usize) -> Self {
        Self(Rc::new(BudgetState {
            most,
            used: Cell::new(0),
            parent: Some(self.clone()),
        }))
    }

    /// Takes bytes from this budget and its parents. On `false` it has taken none from any of them.
    fn take(&self, bytes: usize) -> bool {
        let inner = &*self.0;
        let used = inner.used.get() + bytes;
        if used > inner.most
            || inner
                .parent
                .as_ref()
                .is_some_and(|parent| !parent.take(bytes))
        {
            return false;
        }
        inner.used.set(used);
        true
    }

    fn release(&self, bytes: usize) {
        self.0.used.set(self.0.used.get() - bytes);
        if let Some(parent) = &self.0.parent {
            parent.release(bytes);
        }
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.0.used.get()
    }
}

/// The bytes that one owner has taken from a budget. Returned on drop.
///
/// It only grows, until [`Self::clear`]: an owner asks for its largest need so far, and an owner that is refused keeps what it has.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    budget: ByteBudget,
    bytes: usize,
}

impl BudgetShare {
    pub(crate) fn new(budget: ByteBudget) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Grows the share to `bytes` if it is smaller. `false` if the budget is too small for that; the share is unchanged then.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes);
        if !self.budget.take(missing) {
            return false;
        }
        self.bytes += missing;
        true
    }

    /// Returns all bytes to the budget.
    pub(crate) fn clear(&mut self) {
        self.budget.release(std::mem::take(&mut self.bytes));
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
    fn a_part_is_bounded_by_itself_and_by_its_parent() {
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
    fn only_missing_bytes_are_taken() {
        let budget = ByteBudget::new(10);
        let mut share = BudgetShare::new(budget.clone());
        assert!(share.grow_to(8) && share.grow_to(3) && share.grow_to(10));
        assert_eq!(budget.used(), 10);
        assert!(!share.grow_to(11));
        assert_eq!(budget.used(), 10);
    }
}

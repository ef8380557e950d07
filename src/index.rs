//! Indices of services, versions, rules, endpoints and flags in the lists of a configuration, a type for each, so that one can't be
//! mistaken for another.
//!
//! A list is indexed by its type where `indexed_by!` says so. `.0` is for lists that are in the same order but belong to
//! another part of the code.

/// Defines index types.
macro_rules! index_types {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub usize);

        impl $name {
            /// All indices of a list of this length, in order.
            #[inline]
            pub fn all(length: usize) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
                (0..length).map(Self)
            }

            /// The items of a list, each with its index.
            #[inline]
            pub fn enumerate<T>(list: &[T]) -> impl DoubleEndedIterator<Item = (Self, &T)> + ExactSizeIterator {
                Self::all(list.len()).zip(list)
            }
        }

        impl<T: IndexedBy<$name>> std::ops::Index<$name> for [T] {
            type Output = T;

            #[inline]
            fn index(&self, index: $name) -> &T {
                &self[index.0]
            }
        }

        impl<T: IndexedBy<$name>> std::ops::Index<$name> for Vec<T> {
            type Output = T;

            #[inline]
            fn index(&self, index: $name) -> &T {
                &self[index.0]
            }
        }
    )+};
}

index_types! {
    /// Index of a service in its configuration.
    ServiceIx;
    /// Index of a version in its service.
    VersionIx;
    /// Index of a match rule in its service.
    RuleIx;
    /// Index of an endpoint in the pool of its version.
    EndpointIx;
    /// Index of a flag among those of its service, which are sorted by name.
    FlagIx;
}

/// Items whose lists are indexed by this type of index. Implemented by [`indexed_by!`](crate::indexed_by).
pub trait IndexedBy<I> {}

impl<I, T: IndexedBy<I>> IndexedBy<I> for std::sync::Arc<T> {}

/// Lets a list of these items, or of their `Arc`s, be indexed by this type of index.
#[macro_export]
macro_rules! indexed_by {
    ($index:ty: $($item:ty),+) => {$(
        impl $crate::index::IndexedBy<$index> for $item {}
    )+};
}

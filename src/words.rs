//! `words!` declares a closed set of words in one place: an enum, the word of each value, and the functions that print and
//! parse it. The words are part of the interface: alerts and log queries match on them.

/// Declares a closed set of words: an enum with `ALL`, `COUNT`, `as_str`, `parse`, `index` and `Display`. The documentation of a
/// value is a comment above it or a text behind its word.
#[macro_export]
macro_rules! words {
    ($(#[$outer:meta])* $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident $word:literal $(: $text:literal)?,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name { $($(#[$doc])* $(#[doc = $text])? $variant,)* }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
            /// Number of values.
            pub const COUNT: usize = Self::ALL.len();

            /// Returns the word of this value.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Returns the value with this word; `None` if there is none.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }

            /// Returns the position in [`Self::ALL`].
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

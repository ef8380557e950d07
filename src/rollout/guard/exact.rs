//! `f64` in JSON without loss: as text in Rust's shortest form that parses back to the same bits.
//!
//! JSON numbers can't hold −∞, which is the logarithm of no evidence, and a parser may round the last bit.

use serde::de::{Deserialize, Deserializer, Error};
use serde::ser::Serializer;

fn read<E: Error>(text: &str) -> Result<f64, E> {
    match text.parse::<f64>() {
        Ok(value) if value < f64::INFINITY => Ok(value),
        _ => Err(E::custom(format!("not a number below infinity: {text}"))),
    }
}

pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    read(&String::deserialize(from)?)
}

/// The same for arrays and vectors.
pub(super) mod list {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S, T>(values: &T, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        T: AsRef<[f64]>,
    {
        to.collect_seq(values.as_ref().iter().map(f64::to_string))
    }

    pub(crate) fn deserialize<'de, D, T>(from: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: TryFrom<Vec<f64>>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        let values: Result<Vec<f64>, _> = texts.iter().map(|text| super::read(text)).collect();
        T::try_from(values?).map_err(|_| D::Error::custom("wrong number of values"))
    }
}

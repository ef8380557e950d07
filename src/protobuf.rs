//! Messages of Protocol Buffers: `message!` declares one as its published definition does, by the number and type of each field.
//!
//! The encoding is that of proto3: fields that have their default value aren't sent, unknown fields are skipped.

use bytes::Bytes;

/// Declares a message: a struct whose fields have numbers, as in `pub name: String = 3`.
macro_rules! message {
    ($(#[$outer:meta])* $vis:vis struct $name:ident {
        $($(#[$doc:meta])* $field_vis:vis $field:ident: $type:ty = $number:literal,)*
    }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq)]
        $vis struct $name { $($(#[$doc])* $field_vis $field: $type,)* }

        impl $crate::protobuf::Message for $name {
            fn write(&self, out: &mut Vec<u8>) {
                $($crate::protobuf::Field::write(&self.$field, $number, out);)*
            }

            fn read_field(
                &mut self,
                number: u32,
                value: $crate::protobuf::Value<'_>,
            ) -> Result<(), $crate::protobuf::Malformed> {
                match number {
                    $($number => $crate::protobuf::Field::read(&mut self.$field, value),)*
                    _ => Ok(()),
                }
            }
        }
    };
}

/// A struct whose fields have numbers.
pub(crate) trait Message: Default {
    /// Appends the fields.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes the value of the field with this number. Fields that aren't known are ignored.
    fn read_field(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed>;

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// # Errors
    /// The bytes aren't a message, or a field has another type.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        message.read(bytes)?;
        Ok(message)
    }

    /// Reads fields, beside those that are there already.
    fn read(&mut self, mut bytes: &[u8]) -> Result<(), Malformed> {
        while !bytes.is_empty() {
            // The number of the field, and the type of its value in the lowest three bits.
            let key = varint(&mut bytes).and_then(|key| u32::try_from(key).ok());
            let key = key.filter(|key| key >> 3 > 0).ok_or(Malformed)?;
            let value = Value::read(key & 7, &mut bytes).ok_or(Malformed)?;
            self.read_field(key >> 3, value)?;
        }
        Ok(())
    }
}

/// The bytes aren't a message of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the message is malformed")
    }
}

/// The value of a field as it is encoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'b> {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(&'b [u8]),
    Fixed32([u8; 4]),
}

/// The types of encoded values. The others, 3 and 4, delimit groups, which proto3 doesn't have.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

impl<'b> Value<'b> {
    /// Takes the value of this type from the front of `bytes`.
    fn read(kind: u32, bytes: &mut &'b [u8]) -> Option<Self> {
        Some(match kind {
            VARINT => Self::Varint(varint(bytes)?),
            FIXED64 => Self::Fixed64(take(bytes, 8)?.try_into().ok()?),
            BYTES => {
                let length = varint(bytes)?;
                Self::Bytes(take(bytes, usize::try_from(length).ok()?)?)
            }
            FIXED32 => Self::Fixed32(take(bytes, 4)?.try_into().ok()?),
            _ => return None,
        })
    }

    fn varint(self) -> Result<u64, Malformed> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(Malformed),
        }
    }

    fn bytes(self) -> Result<&'b [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed),
        }
    }
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Takes a number in groups of seven bits, lowest first, from the front of `bytes`.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    // Ten groups hold 64 bits, with one in the last.
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while let group @ 0x80.. = number {
        // The lowest seven bits, and that more follow.
        out.push(group as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_key(number: u32, kind: u32, out: &mut Vec<u8>) {
    put_varint(u64::from(number << 3 | kind), out);
}

/// Appends a field of text or bytes.
pub(crate) fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_message(number: u32, message: &impl Message, out: &mut Vec<u8>) {
    put_key(number, BYTES, out);
    let start = out.len();
    message.write(out);
    // The length stands before the message, and is known only now.
    let length = out.len() - start;
    put_varint(length as u64, out);
    let length_bytes = out.len() - start - length;
    out[start..].rotate_right(length_bytes);
}

/// A type of fields.
pub(crate) trait Field {
    /// Appends the field with its number, unless it has the default value.
    fn write(&self, number: u32, out: &mut Vec<u8>);

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed>;
}

/// Types whose values are numbers of variable length. Negative ones have all ten bytes.
macro_rules! varint_fields {
    ($($type:ty: $from:expr, $into:expr;)*) => {$(
        impl Field for $type {
            fn write(&self, number: u32, out: &mut Vec<u8>) {
                if *self != Self::default() {
                    Some(*self).write(number, out);
                }
            }

            fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
                let from: fn(u64) -> Self = $from;
                *self = from(value.varint()?);
                Ok(())
            }
        }

        /// A field that is sent also with the default value.
        impl Field for Option<$type> {
            fn write(&self, number: u32, out: &mut Vec<u8>) {
                let into: fn($type) -> u64 = $into;
                if let Some(value) = *self {
                    put_key(number, VARINT, out);
                    put_varint(into(value), out);
                }
            }

            fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
                self.get_or_insert_default().read(value)
            }
        }
    )*};
}

varint_fields! {
    bool: |number| number != 0, u64::from;
    i32: |number| number as Self, |number| i64::from(number) as u64;
    i64: |number| number as Self, |number| number as u64;
    u64: |number| number, |number| number;
}

/// `fixed64`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fixed64(pub u64);

impl Field for Fixed64 {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if self.0 != 0 {
            put_key(number, FIXED64, out);
            out.extend_from_slice(&self.0.to_le_bytes());
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Fixed64(bytes) = value else {
            return Err(Malformed);
        };
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

/// `double`, which is sent also if it is 0.
impl Field for Option<f64> {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            put_key(number, FIXED64, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Fixed64(bytes) = value else {
            return Err(Malformed);
        };
        *self = Some(f64::from_le_bytes(bytes));
        Ok(())
    }
}

/// `fixed32`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fixed32(pub u32);

impl Field for Fixed32 {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if self.0 != 0 {
            put_key(number, FIXED32, out);
            out.extend_from_slice(&self.0.to_le_bytes());
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Fixed32(bytes) = value else {
            return Err(Malformed);
        };
        self.0 = u32::from_le_bytes(bytes);
        Ok(())
    }
}

/// `bytes`.
impl Field for Bytes {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        *self = Self::copy_from_slice(value.bytes()?);
        Ok(())
    }
}

/// `bytes`.
impl Field for Vec<u8> {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        *self = value.bytes()?.to_vec();
        Ok(())
    }
}

impl Field for String {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let text = str::from_utf8(value.bytes()?).map_err(|_| Malformed)?;
        text.clone_into(self);
        Ok(())
    }
}

/// A message, which may be absent. Several values are one message in parts.
impl<M: Message> Field for Option<M> {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_message(number, message, out);
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.get_or_insert_default().read(value.bytes()?)
    }
}

/// `repeated` messages.
impl<M: Message> Field for Vec<M> {
    fn write(&self, number: u32, out: &mut Vec<u8>) {
        for message in self {
            put_message(number, message, out);
        }
    }

    fn read(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        self.push(M::decode(value.bytes()?)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

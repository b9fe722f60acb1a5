//! Values to bytes and back.
//!
//! Numbers are varints of seven bits each, the lowest first; a list or a text is its length and then
//! its elements; an option or a choice is a number and then what belongs to it. Nothing is allocated
//! in proportion to a length that the bytes do not bear out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

/// Bytes that no value was written as.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a value of this version: {0}")]
pub struct Malformed(pub &'static str);

/// Something that can be written and read again.
pub(crate) trait Field: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);

    /// Takes it off the front.
    fn take(input: &mut &[u8]) -> Result<Self, Malformed>;
}

/// Takes a value that nothing may follow.
pub(crate) fn whole<T: Field>(mut input: &[u8]) -> Result<T, Malformed> {
    let value = T::take(&mut input)?;
    match input.is_empty() {
        true => Ok(value),
        false => Err(Malformed("something follows it")),
    }
}

pub(crate) fn put_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn take_number(input: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first().ok_or(Malformed("it ends early"))?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("a number too large"))
}

pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Bytes where they are.
pub(crate) fn take_bytes<'a>(input: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let length = usize::take(input)?;
    let (bytes, rest) = input
        .split_at_checked(length)
        .ok_or(Malformed("it ends early"))?;
    *input = rest;
    Ok(bytes)
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                put_number(*self as u64, out);
            }

            fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
                Self::try_from(take_number(input)?).map_err(|_| Malformed("a number too large"))
            }
        }
    )*};
}

numbers!(u8 u16 u32 u64 usize);

impl Field for NonZeroUsize {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Self::new(usize::take(input)?).ok_or(Malformed("a number that must not be 0"))
    }
}

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push((*self).into());
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        match u8::take(input)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(self.as_bytes(), out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let text = str::from_utf8(take_bytes(input)?).map_err(|_| Malformed("not UTF-8"))?;
        Ok(text.to_owned())
    }
}

/// Bytes of their own: `Vec<u8>` as a [`Field`] would be a list of numbers.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Octets(pub(crate) Vec<u8>);

impl Field for Octets {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(&self.0, out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(Self(take_bytes(input)?.to_vec()))
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let (bytes, rest) = input
            .split_first_chunk()
            .ok_or(Malformed("it ends early"))?;
        *input = rest;
        Ok(*bytes)
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        bool::take(input)?.then(|| T::take(input)).transpose()
    }
}

impl<T: Field, E: Field> Field for Result<T, E> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_ok().put(out);
        match self {
            Ok(value) => value.put(out),
            Err(error) => error.put(out),
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match bool::take(input)? {
            true => Ok(T::take(input)?),
            false => Err(E::take(input)?),
        })
    }
}

impl Field for () {
    fn put(&self, _out: &mut Vec<u8>) {}

    fn take(_input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(())
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok((A::take(input)?, B::take(input)?))
    }
}

/// A list's elements are read one by one: a length alone makes no room.
impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.len().put(out);
        for value in self {
            value.put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let length = usize::take(input)?;
        if length > input.len() {
            return Err(Malformed("it ends early"));
        }
        let mut values = Self::new();
        for _ in 0..length {
            values.push(T::take(input)?);
        }
        Ok(values)
    }
}

impl Field for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_secs().put(out);
        self.subsec_nanos().put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let (seconds, nanos) = <(u64, u32)>::take(input)?;
        match nanos < 1_000_000_000 {
            true => Ok(Self::new(seconds, nanos)),
            false => Err(Malformed("more than a second of nanoseconds")),
        }
    }
}

impl Field for SystemTime {
    fn put(&self, out: &mut Vec<u8>) {
        let since = self.duration_since(Self::UNIX_EPOCH);
        since.map_err(|before| before.duration()).put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        let time = match Result::<Duration, Duration>::take(input)? {
            Ok(since) => Self::UNIX_EPOCH.checked_add(since),
            Err(before) => Self::UNIX_EPOCH.checked_sub(before),
        };
        time.ok_or(Malformed("a time too far away"))
    }
}

impl Field for IpAddr {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => Ok::<_, [u8; 16]>(address.octets()),
            Self::V6(address) => Err(address.octets()),
        }
        .put(out);
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match Result::<[u8; 4], [u8; 16]>::take(input)? {
            Ok(octets) => Self::V4(Ipv4Addr::from(octets)),
            Err(octets) => Self::V6(Ipv6Addr::from(octets)),
        })
    }
}

impl Field for SocketAddr {
    fn put(&self, out: &mut Vec<u8>) {
        self.ip().put(out);
        self.port().put(out);
        if let Self::V6(address) = self {
            address.flowinfo().put(out);
            address.scope_id().put(out);
        }
    }

    fn take(input: &mut &[u8]) -> Result<Self, Malformed> {
        Ok(match <(IpAddr, u16)>::take(input)? {
            (IpAddr::V4(ip), port) => Self::V4(SocketAddrV4::new(ip, port)),
            (IpAddr::V6(ip), port) => {
                let (flow, scope) = <(u32, u32)>::take(input)?;
                Self::V6(SocketAddrV6::new(ip, port, flow, scope))
            }
        })
    }
}

/// Structures, field by field: one that gets a further field does not compile until it stands here.
macro_rules! structures {
    ($($type:path { $($field:ident),* $(,)? })*) => {$(
        impl $crate::codec::Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($crate::codec::Field::put($field, out);)*
            }

            fn take(input: &mut &[u8]) -> Result<Self, $crate::codec::Malformed> {
                $(let $field = $crate::codec::Field::take(input)?;)*
                Ok(Self { $($field),* })
            }
        }
    )*};
}

/// Numbers with a name.
macro_rules! newtypes {
    ($($type:path)*) => {$(
        impl $crate::codec::Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                $crate::codec::Field::put(&self.0, out);
            }

            fn take(input: &mut &[u8]) -> Result<Self, $crate::codec::Malformed> {
                Ok(Self($crate::codec::Field::take(input)?))
            }
        }
    )*};
}

/// Choices, by number.
macro_rules! choices {
    ($($type:path { $($number:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(($inner:ident))?),* $(,)? })*) => {$(
        impl $crate::codec::Field for $type {
            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(($inner))? => {
                        out.push($number);
                        $($($crate::codec::Field::put($field, out);)*)?
                        $($crate::codec::Field::put($inner, out);)?
                    })*
                }
            }

            fn take(input: &mut &[u8]) -> Result<Self, $crate::codec::Malformed> {
                match <u8 as $crate::codec::Field>::take(input)? {
                    $($number => {
                        $($(let $field = $crate::codec::Field::take(input)?;)*)?
                        $(let $inner = $crate::codec::Field::take(input)?;)?
                        Ok(Self::$variant $({ $($field),* })? $(($inner))?)
                    })*
                    _ => Err($crate::codec::Malformed("an unknown choice")),
                }
            }
        }
    )*};
}

pub(crate) use {choices, newtypes, structures};

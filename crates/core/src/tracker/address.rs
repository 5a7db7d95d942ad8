//! Where a tracker is found: the value of one environment variable.
//!
//! `<address>.<cookie>.<group>.<exporter>`: 32, 32 and 16 lower-case hexadecimal
//! digits and a decimal pid. The value is a hint that children inherit: nobody may
//! listen there any more, and then it means nothing.

use std::fmt;

use rustix::io::Errno;

/// The environment variable.
pub const VARIABLE: &str = "SHARED_NUMPY_TRACKER";

/// 128 random bits.
pub type Token = [u8; 16];

/// What a process must know to reach a tracker and its group in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The random part of the socket's name. Not a secret: `/proc/net/unix` shows it.
    pub name: Token,
    /// What a connecting process proves itself with. Kept out of everything on disk.
    pub cookie: Token,
    /// The group of the process that exported this address.
    pub group: u64,
    /// The pid of that process. A `multiprocessing` child joins the group only if
    /// this is its parent: an address that came down from further up names a group
    /// that its parent never belonged to.
    pub exporter: u32,
}

impl Address {
    /// The socket's name.
    pub fn socket_name(&self) -> Vec<u8> {
        let mut name = b"shared_numpy.".to_vec();
        name.extend(hex(&self.name).bytes());
        name
    }

    /// Reads the variable's value; `None` for anything that is not exactly one.
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('.');
        let address = Address {
            name: unhex(fields.next()?)?,
            cookie: unhex(fields.next()?)?,
            group: u64::from_be_bytes(unhex(fields.next()?)?),
            exporter: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(address)
    }

    /// The address in this process's environment, if there is a valid one.
    pub fn from_environment() -> Option<Self> {
        Self::parse(std::env::var_os(VARIABLE)?.to_str()?)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{}.{:016x}.{}",
            hex(&self.name),
            hex(&self.cookie),
            self.group,
            self.exporter
        )
    }
}

impl fmt::Debug for Address {
    /// Without the cookie: this may end in a log file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}, group {:016x})", hex(&self.name), self.group)
    }
}

/// Random bits from the kernel.
///
/// # Errors
///
/// The system's; `ENOSYS` before Linux 3.17 (then `/dev/urandom` serves).
pub fn random<const N: usize>() -> Result<[u8; N], Errno> {
    use std::io::Read;
    let mut bytes = [0_u8; N];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
        Ok(count) if count == N => Ok(bytes),
        _ => {
            std::fs::File::open("/dev/urandom")
                .and_then(|mut file| file.read_exact(&mut bytes))
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            Ok(bytes)
        }
    }
}

/// Whether two tokens are equal, in time that does not depend on where they differ.
pub fn same_token(one: &Token, other: &Token) -> bool {
    one.iter()
        .zip(other)
        .fold(0, |difference, (a, b)| difference | (a ^ b))
        == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_written() {
        let address = Address {
            name: random().unwrap(),
            cookie: random().unwrap(),
            group: 0x0123,
            exporter: 4711,
        };
        let text = address.to_string();
        assert_eq!(text.len(), 32 + 1 + 32 + 1 + 16 + 1 + 4);
        assert_eq!(Address::parse(&text), Some(address));
    }

    #[test]
    fn anything_else_is_no_address() {
        let good = Address {
            name: [1; 16],
            cookie: [2; 16],
            group: 3,
            exporter: 4,
        }
        .to_string();
        for bad in [
            "",
            "....",
            &good[1..],
            &good.to_uppercase().replace('0', "A"),
            &format!("{good}.5"),
            &format!("{good}x"),
            &good.replace('.', ""),
            "ünïcödé.a.b.c",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad:?}");
        }
    }
}

//! Which process this is, told apart from every other that ever had its number.
//!
//! Guarantee: nothing here allocates, so that a freshly forked child may call it.

#![allow(unsafe_code)]

use super::process::{PROC_BYTES, Stat, read_proc};

/// A process: its number, where the number counts, and when it began. What the
/// system does not tell is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Process id.
    pub pid: u64,
    /// Start time in clock ticks since boot.
    pub start_ticks: u64,
    /// Inode of the pid namespace.
    pub pid_namespace: u64,
    /// The kernel's boot id, low and high half.
    pub boot: [u64; 2],
    /// Which of the programs that it has run: `exec` keeps everything above and changes
    /// this. A forked child has its parent's.
    pub image: u64,
}

impl Identity {
    /// The kernel's boot id, low and high half; zeros if it does not tell.
    pub fn boot() -> [u64; 2] {
        static BOOT: std::sync::OnceLock<[u64; 2]> = std::sync::OnceLock::new();
        *BOOT.get_or_init(|| {
            let mut buffer = [0; PROC_BYTES];
            read_proc("/proc/sys/kernel/random/boot_id", &mut buffer)
                .map(boot_id)
                .unwrap_or_default()
        })
    }

    /// This process.
    pub fn own() -> Self {
        let mut buffer = [0; PROC_BYTES];
        let start_ticks = read_proc("/proc/self/stat", &mut buffer)
            .ok()
            .and_then(Stat::parse)
            .map_or(0, |stat| stat.start_ticks);
        Identity {
            pid: u64::from(std::process::id()),
            start_ticks,
            pid_namespace: rustix::fs::stat("/proc/self/ns/pid").map_or(0, |stat| stat.st_ino),
            boot: Self::boot(),
            image: image(),
        }
    }

    /// Whether this is what process `other` was before it called `exec`, the two being
    /// told by the same kernel. In doubt it is not.
    pub fn has_become(&self, other: &Identity) -> bool {
        let known = [self.pid, self.pid_namespace, self.image, other.image];
        !known.contains(&0)
            && self.pid == other.pid
            && self.pid_namespace == other.pid_namespace
            && self.boot == other.boot
            && self.image != other.image
    }
}

/// A hash of the random bytes that the kernel hands to each program that it starts. Short,
/// since the C library makes secrets of them: three quarters of each stay unknown.
fn image() -> u64 {
    // SAFETY: any number may be asked for; what is not there is 0.
    let address = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const [u8; 16];
    if address.is_null() {
        return 0;
    }
    // SAFETY: the kernel put 16 bytes there, on the first thread's stack above all that
    // runs, where they are mapped and readable as long as the program runs.
    let bytes = unsafe { address.read_unaligned() };
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    hash >> 32 | 1 << 32
}

/// 32 hexadecimal digits among dashes.
fn boot_id(text: &[u8]) -> [u64; 2] {
    let digits = text
        .iter()
        .filter_map(|&byte| char::from(byte).to_digit(16))
        .take(32);
    let id = digits.fold(0_u128, |id, digit| id << 4 | u128::from(digit));
    [id as u64, (id >> 64) as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_identity_is_complete() {
        let own = Identity::own();
        assert_eq!(own.pid, u64::from(std::process::id()));
        assert!(own.start_ticks > 0 && own.pid_namespace > 0 && own.boot != [0, 0]);
        assert!(own.image > 0);
        assert_eq!(own, Identity::own());
    }

    #[test]
    fn only_another_program_of_the_same_process_is_what_it_has_become() {
        let own = Identity::own();
        let image = own.image ^ 1;
        let before = Identity { image, ..own };
        assert!(before.has_become(&own) && !own.has_become(&own));
        for change in [
            (|it| it.pid += 1) as fn(&mut Identity),
            |it| it.pid_namespace += 1,
            |it| it.boot[0] ^= 1,
            |it| it.image = 0,
        ] {
            let mut other = before;
            change(&mut other);
            assert!(!other.has_become(&own) && !own.has_become(&other));
        }
        let nowhere = Identity {
            pid_namespace: 0,
            ..own
        };
        let before = Identity { image, ..nowhere };
        assert!(!before.has_become(&nowhere));
    }
}

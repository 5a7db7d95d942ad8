//! What is done when a group is over: unlink what is left, and say so.
//!
//! Rules: a file that is not the one that was registered is left alone, without a
//! word; a name that may have been removed behind our back is not mentioned if it
//! was; arrays are removed in silence, they need no unlink. The words are the
//! standard library's, because programs and tests look for them.

use std::fmt::Write;

use rustix::io::Errno;

use super::group::{Names, Registered};
use super::words::python_repr;
use crate::name::SegmentName;
use crate::sys::shm::{self, Identity};
use crate::tracker::protocol::ResourceType;

/// How many names a warning lists at most.
const LISTED_MAX: usize = 1000;

/// The exit status of a tracker that removed something that nobody unregistered.
pub(super) const LEAKED: u8 = 1;
/// ... that could not remove something.
pub(super) const FAILED: u8 = 2;
/// ... that was sent bytes that are no message, and had nothing to clean up.
pub(super) const MALFORMED: u8 = 3;

/// What came of a clean-up.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// What to tell the user; empty for silence.
    pub(super) text: String,
    /// What the exit status must at least be.
    pub(super) status: u8,
}

/// Unlinks all of `names`.
pub(super) fn clean_up(names: Names) -> Outcome {
    let mut outcome = Outcome::default();
    for rtype in ResourceType::ALL {
        let leaked: Vec<(&[u8], Registered)> = names
            .iter()
            .filter(|((of, _), _)| *of == rtype)
            .map(|((_, name), known)| (&**name, *known))
            .filter(|(name, known)| !replaced_or_gone(rtype, name, known))
            .collect();
        if leaked.is_empty() {
            continue;
        }
        if rtype != ResourceType::Array {
            outcome.status = outcome.status.max(LEAKED);
        }
        if !matches!(rtype, ResourceType::Array | ResourceType::Dummy) {
            announce(&mut outcome.text, rtype, &leaked);
        }
        for (name, known) in leaked {
            if let Err(reason) = remove(rtype, name, known.identity)
                && rtype != ResourceType::Array
            {
                outcome.status = FAILED;
                warn(
                    &mut outcome.text,
                    &format!("{}: {reason}", python_repr(name)),
                );
            }
        }
    }
    outcome
}

/// Whether the name leads to another file by now, or nowhere and that is no news.
fn replaced_or_gone(rtype: ResourceType, name: &[u8], known: &Registered) -> bool {
    let Some(Ok(file)) = file_of(rtype, name) else {
        return false;
    };
    match shm::identity(&file) {
        Ok(found) => known.identity != Identity::default() && known.identity != found,
        Err(errno) => errno == Errno::NOENT && known.may_be_gone,
    }
}

/// The file in `/dev/shm` that stands behind a name; `None` for types without one.
fn file_of(rtype: ResourceType, name: &[u8]) -> Option<Result<SegmentName, String>> {
    let file = match rtype {
        ResourceType::Noop | ResourceType::Dummy => return None,
        ResourceType::SharedMemory | ResourceType::Array => SegmentName::new(name),
        // The C library's convention for named semaphores, glibc and musl alike.
        ResourceType::Semaphore => {
            let bare = name.strip_prefix(b"/").unwrap_or(name);
            SegmentName::new(&[b"sem.", bare].concat())
        }
    };
    Some(file.map_err(|error| error.to_string()))
}

fn remove(rtype: ResourceType, name: &[u8], identity: Identity) -> Result<(), String> {
    let file = match (rtype, file_of(rtype, name)) {
        (ResourceType::Noop, _) => {
            return Err("noop should never be registered or cleaned up".to_owned());
        }
        (_, None) => return Ok(()),
        (_, Some(file)) => file?,
    };
    let removed = if identity == Identity::default() {
        shm::unlink(&file)
    } else {
        shm::unlink_if(&file, identity)
    };
    match removed {
        // Replaced in the instant since we looked: not ours any more.
        Ok(()) | Err(Errno::STALE) => Ok(()),
        Err(errno) => Err(os_error(errno, name)),
    }
}

/// As Python prints an `OSError`: `[Errno 2] No such file or directory: '/name'`.
fn os_error(errno: Errno, name: &[u8]) -> String {
    let text = std::io::Error::from(errno).to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    format!(
        "[Errno {}] {words}: {}",
        errno.raw_os_error(),
        python_repr(name)
    )
}

fn announce(text: &mut String, rtype: ResourceType, leaked: &[(&[u8], Registered)]) {
    let mut listed: Vec<String> = leaked
        .iter()
        .take(LISTED_MAX)
        .map(|(name, _)| python_repr(name))
        .collect();
    if leaked.len() > LISTED_MAX {
        listed.push("...".to_owned());
    }
    let message = format!(
        "There appear to be {} leaked {} objects to clean up at shutdown: {{{}}}",
        leaked.len(),
        rtype.name(),
        listed.join(", ")
    );
    warn(text, &message);
}

fn warn(text: &mut String, message: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "shared-numpy-tracker: UserWarning: resource_tracker: {message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(of: &[(ResourceType, &str, Registered)]) -> Names {
        of.iter()
            .map(|(rtype, name, known)| ((*rtype, Box::from(name.as_bytes())), *known))
            .collect()
    }

    const UNKNOWN: Registered = Registered {
        identity: Identity { dev: 0, ino: 0 },
        may_be_gone: false,
    };

    fn unique(what: &str) -> String {
        format!("/snp_test_{what}_{}", std::process::id())
    }

    fn make(file: &str) -> Identity {
        let path = format!("/dev/shm{file}");
        std::fs::write(&path, b"x").unwrap();
        shm::identity(&SegmentName::new(file.as_bytes()).unwrap()).unwrap()
    }

    fn exists(file: &str) -> bool {
        std::path::Path::new(&format!("/dev/shm{file}")).exists()
    }

    #[test]
    fn nothing_left_is_nothing_said() {
        assert_eq!(clean_up(Names::new()), Outcome::default());
    }

    #[test]
    fn leaks_are_unlinked_counted_and_named() {
        let (one, two) = (unique("one"), unique("two"));
        let identity = make(&one);
        make(&two);
        let outcome = clean_up(names(&[
            (ResourceType::SharedMemory, &two, UNKNOWN),
            (
                ResourceType::SharedMemory,
                &one,
                Registered {
                    identity,
                    ..UNKNOWN
                },
            ),
        ]));
        assert!(!exists(&one) && !exists(&two));
        assert_eq!(outcome.status, LEAKED);
        assert_eq!(
            outcome.text,
            format!(
                "shared-numpy-tracker: UserWarning: resource_tracker: There appear to be 2 leaked \
                 shared_memory objects to clean up at shutdown: {{'{one}', '{two}'}}\n"
            )
        );
    }

    #[test]
    fn a_name_that_is_gone_is_counted_and_complained_about_unless_expected() {
        let gone = unique("gone");
        let outcome = clean_up(names(&[(ResourceType::SharedMemory, &gone, UNKNOWN)]));
        assert_eq!(outcome.status, FAILED);
        assert!(outcome.text.contains("1 leaked shared_memory objects"));
        assert!(outcome.text.contains(&format!(
            "resource_tracker: '{gone}': [Errno 2] No such file or directory: '{gone}'"
        )));
        let expected = Registered {
            may_be_gone: true,
            ..UNKNOWN
        };
        let outcome = clean_up(names(&[(ResourceType::SharedMemory, &gone, expected)]));
        assert_eq!(outcome, Outcome::default());
    }

    #[test]
    fn another_file_under_the_name_stays() {
        let name = unique("replaced");
        let identity = make(&name);
        let known = Registered {
            identity: Identity {
                ino: identity.ino + 1,
                ..identity
            },
            may_be_gone: false,
        };
        let outcome = clean_up(names(&[(ResourceType::SharedMemory, &name, known)]));
        assert_eq!(outcome, Outcome::default());
        assert!(exists(&name));
        std::fs::remove_file(format!("/dev/shm{name}")).unwrap();
    }

    #[test]
    fn semaphores_lie_under_their_own_prefix_and_arrays_go_in_silence() {
        let (array, semaphore) = (unique("array"), unique("semaphore"));
        let file = format!("/sem.{}", &semaphore[1..]);
        make(&array);
        make(&file);
        let outcome = clean_up(names(&[
            (ResourceType::Array, &array, UNKNOWN),
            (ResourceType::Semaphore, &semaphore, UNKNOWN),
        ]));
        assert!(!exists(&array) && !exists(&file));
        assert!(outcome.text.contains("1 leaked semaphore objects"));
        assert!(!outcome.text.contains("array"));
        assert_eq!(outcome.status, LEAKED);
    }

    #[test]
    fn the_standard_librarys_test_types() {
        let outcome = clean_up(names(&[(ResourceType::Dummy, "somename", UNKNOWN)]));
        assert_eq!((outcome.text.as_str(), outcome.status), ("", LEAKED));
        let outcome = clean_up(names(&[(ResourceType::Noop, "x", UNKNOWN)]));
        assert_eq!(outcome.status, FAILED);
        assert!(outcome.text.contains("'x': noop should never be"));
    }

    #[test]
    fn a_name_cannot_lead_out_of_dev_shm() {
        let outcome = clean_up(names(&[(ResourceType::SharedMemory, "/../tmp/x", UNKNOWN)]));
        assert_eq!(outcome.status, FAILED);
        assert!(outcome.text.contains("slash"));
    }
}

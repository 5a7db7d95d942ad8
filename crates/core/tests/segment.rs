//! Named segments seen from outside: create, attach, unlink, reopen.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use shared_numpy_core::error::Error;
use shared_numpy_core::name::SegmentName;
use shared_numpy_core::segment::{self, CreateOptions, Reserve, Segment};
use shared_numpy_core::sys::shm::{self, OpenFlags};

/// A name of this test's own, removed at the end whatever happened.
struct Name(SegmentName);

impl Name {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let text = format!("snp-test-{}-{number}", std::process::id());
        Name(SegmentName::new(text.as_bytes()).unwrap())
    }

    fn get(&self) -> SegmentName {
        self.0.clone()
    }

    fn exists(&self) -> bool {
        shm::identity(&self.0).is_ok()
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = shm::unlink(&self.0);
    }
}

fn create(name: &Name, size_bytes: usize) -> Result<Segment, Error> {
    Segment::create(
        name.get(),
        size_bytes,
        CreateOptions::default(),
        &mut || true,
    )
}

fn attach(name: &Name, read_only: bool) -> Result<Segment, Error> {
    Segment::attach(name.get(), OpenFlags::empty(), 0o600, read_only)
}

fn errno_of<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<Errno> {
    result.unwrap_err().errno()
}

#[test]
fn what_one_writes_the_other_reads() {
    let name = Name::new();
    let ours = create(&name, 5000).unwrap();
    let theirs = attach(&name, false).unwrap();
    assert_eq!(theirs.mapping().len(), 5000);
    ours.mapping().write_bytes(4990, b"0123456789").unwrap();
    let mut read = [0; 10];
    theirs.mapping().read_bytes(4990, &mut read).unwrap();
    assert_eq!(&read, b"0123456789");
    theirs.mapping().store_u64(8, 77).unwrap();
    assert_eq!(ours.mapping().load_u64(8).unwrap(), 77);
}

#[test]
fn memory_is_committed_at_creation_or_on_request() {
    let name = Name::new();
    for (reserve, committed) in [
        (Reserve::Auto, true),
        (Reserve::Always, true),
        (Reserve::Never, false),
    ] {
        let options = CreateOptions {
            reserve,
            ..CreateOptions::default()
        };
        let made = Segment::create(name.get(), 9 << 20, options, &mut || true).unwrap();
        let fd = segment::reopen(made.name(), made.identity(), true).unwrap();
        let status = shm::status(&fd).unwrap();
        assert_eq!(status.size_bytes, 9 << 20);
        assert_eq!(
            status.committed_bytes >= 9 << 20,
            committed,
            "{reserve:?}: {status:?}"
        );
        shm::unlink(&name.0).unwrap();
    }
}

#[test]
fn too_large_is_an_error_with_figures_and_leaves_nothing() {
    for reserve in [Reserve::Auto, Reserve::Always] {
        let name = Name::new();
        let options = CreateOptions {
            reserve,
            ..CreateOptions::default()
        };
        let error = Segment::create(name.get(), 1 << 46, options, &mut || true).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        let text = error.to_string();
        assert!(
            text.contains("70368744177664 bytes asked") && text.contains("shm-size"),
            "{text}"
        );
        assert!(!name.exists());
    }
}

#[test]
fn an_interrupted_reservation_leaves_nothing() {
    let name = Name::new();
    let mut asked = 0;
    let stopped = Segment::create(name.get(), 32 << 20, CreateOptions::default(), &mut || {
        asked += 1;
        asked < 3
    });
    assert_eq!(stopped.unwrap_err(), Error::Interrupted);
    assert_eq!(asked, 3);
    assert!(!name.exists());
}

#[test]
fn names_are_exclusive_and_unlinked_once() {
    let name = Name::new();
    let first = create(&name, 64).unwrap();
    assert_eq!(errno_of(create(&name, 64)), Some(Errno::EXIST));
    assert!(name.exists(), "a failed create must not remove another's");
    segment::unlink(&name.0, Some(first.identity())).unwrap();
    assert_eq!(
        errno_of(segment::unlink(&name.0, Some(first.identity()))),
        Some(Errno::NOENT)
    );
    assert_eq!(errno_of(attach(&name, false)), Some(Errno::NOENT));
}

#[test]
fn a_segment_made_anew_under_the_name_is_left_alone() {
    let name = Name::new();
    let first = create(&name, 64).unwrap();
    segment::unlink(&name.0, None).unwrap();
    let second = create(&name, 64).unwrap();
    assert_ne!(first.identity(), second.identity());
    assert!(matches!(
        segment::unlink(&name.0, Some(first.identity())),
        Err(Error::Replaced { .. })
    ));
    assert!(matches!(
        segment::reopen(&name.0, first.identity(), false),
        Err(Error::Replaced { .. })
    ));
    assert!(name.exists());
}

#[test]
fn read_only_refuses_every_write() {
    let name = Name::new();
    let ours = create(&name, 64).unwrap();
    let reader = attach(&name, true).unwrap();
    assert_eq!(reader.mapping().write_bytes(0, b"x"), Err(Error::ReadOnly));
    assert_eq!(reader.mapping().zero_bytes(0, 1), Err(Error::ReadOnly));
    assert_eq!(reader.mapping().store_u64(0, 1), Err(Error::ReadOnly));
    ours.mapping().write_bytes(0, b"y").unwrap();
    let mut read = [0];
    reader.mapping().read_bytes(0, &mut read).unwrap();
    assert_eq!(&read, b"y");
}

#[test]
fn the_mode_is_exact_whatever_the_umask() {
    let name = Name::new();
    let options = CreateOptions {
        mode: 0o666,
        ..CreateOptions::default()
    };
    let made = Segment::create(name.get(), 64, options, &mut || true).unwrap();
    let fd = segment::reopen(made.name(), made.identity(), true).unwrap();
    let stat = rustix::fs::fstat(fd.as_fd()).unwrap();
    assert_eq!(stat.st_mode & 0o7777, 0o666);
}

#[test]
fn bounds_are_checked_without_overflow() {
    let name = Name::new();
    let segment = create(&name, 64).unwrap();
    let mapping = segment.mapping();
    let mut out = [0; 8];
    for offset in [57, 64, 65, usize::MAX, usize::MAX - 7] {
        assert!(matches!(
            mapping.read_bytes(offset, &mut out),
            Err(Error::OutOfBounds { .. })
        ));
        assert!(matches!(
            mapping.write_bytes(offset, &out),
            Err(Error::OutOfBounds { .. })
        ));
        assert!(mapping.zero_bytes(offset, 8).is_err());
        assert!(mapping.load_u64(offset).is_err());
    }
    assert!(mapping.load_u64(4).is_err(), "not a multiple of 8");
    mapping.read_bytes(56, &mut out).unwrap();
    mapping.read_bytes(64, &mut []).unwrap();
}

#[test]
fn many_attachments_share_one_mapping_while_one_lives() {
    let name = Name::new();
    let _ours = create(&name, 64).unwrap();
    let many: Vec<_> = (0..70_000).map(|_| attach(&name, false).unwrap()).collect();
    // All of them are more than the kernel allows mappings. Which share one is not said: who
    // finds the table busy, with the segment of another test perhaps, maps anew.
    let mut starts: Vec<_> = many.iter().map(|one| one.mapping().start()).collect();
    starts.sort_unstable();
    starts.dedup();
    assert!(starts.len() < 35_000, "{} mappings", starts.len());
    let reader = attach(&name, true).unwrap();
    assert!(
        !starts.contains(&reader.mapping().start()),
        "read-only is another mapping"
    );
}

#[test]
fn what_is_no_segment_is_refused() {
    let name = Name::new();
    let path = format!("/dev/shm/{}", name.0.display());
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(attach(&name, false), Err(Error::Empty { .. })));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert_eq!(errno_of(attach(&name, true)), Some(Errno::LOOP));
    std::fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path.as_str(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert_eq!(errno_of(attach(&name, true)), Some(Errno::INVAL));
}

#[test]
fn memory_outlives_name_and_segment() {
    let name = Name::new();
    let segment = create(&name, 64).unwrap();
    segment.mapping().write_bytes(0, b"kept").unwrap();
    let mapping = std::sync::Arc::clone(segment.mapping());
    segment::unlink(&name.0, Some(segment.identity())).unwrap();
    drop(segment);
    let mut read = [0; 4];
    mapping.read_bytes(0, &mut read).unwrap();
    assert_eq!(&read, b"kept");
}

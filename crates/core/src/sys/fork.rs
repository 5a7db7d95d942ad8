//! Being forked at any moment: one lock that no fork can leave behind locked.
//!
//! Guarantees, once [`install`] has run:
//!
//! - What a [`ForkGuarded`] holds is in a consistent state in a forked child,
//!   whatever the parent's other threads did at that moment: `fork` waits until
//!   the lock is free, holds it across the fork and frees it on both sides.
//! - The handlers call no Python, allocate nothing and take constant time.
//! - [`epoch`] tells a child from its parent without a system call.
//! - [`set_hooks`]: what else is to be done around a fork, with the lock held.
//!
//! There is one lock for the whole process. It is held for microseconds, except
//! while a helper process is spawned (about a millisecond). Never lock twice on
//! one thread: it would wait for itself.

#![allow(unsafe_code)]

use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::thread::futex;

/// The lock word.
///
/// | value | meaning | left by |
/// | --- | --- | --- |
/// | `FREE` | nobody holds the lock | unlock; a fork's child side |
/// | `HELD` | held, nobody sleeps | lock from `FREE` without a wait |
/// | `WAITED` | held, and somebody may sleep in the kernel | lock after a wait |
static WORD: AtomicU32 = AtomicU32::new(FREE);
const FREE: u32 = 0;
const HELD: u32 = 1;
const WAITED: u32 = 2;

/// How many forks lie between the process that loaded this code and this one.
/// Written by the child handler only, while the child has one thread.
static EPOCH: AtomicU32 = AtomicU32::new(0);

/// This process's id, or zero when nobody has asked yet. A child clears it while it has one
/// thread; all others that write it write the same number.
static PID: AtomicU32 = AtomicU32::new(0);

/// Whether the fork handlers are in place. Written under the lock.
static INSTALLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// This thread holds the lock and spawns: its own fork must not wait for it.
    static SPAWNING: Cell<bool> = const { Cell::new(false) };
}

/// Proof, in a hook, that this thread holds the lock.
#[derive(Debug)]
pub struct Forking(());

/// What to do around each fork. They must not lock, wait or panic, and the child's must
/// not allocate.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Before it, in the thread that forks.
    pub before: fn(&mut Forking),
    /// After it, in the parent, also when it failed.
    pub in_parent: fn(&mut Forking),
    /// After it, in the child, whose [`epoch`] is its own by then.
    pub in_child: fn(&mut Forking),
}

/// Set once, before there is anything for them to do.
static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Has these called around each fork from now on; the first ones stay. To be called
/// without the lock.
pub fn set_hooks(hooks: Hooks) {
    // Under the lock: a fork on another thread meets either none of them or all.
    lock();
    let _ = HOOKS.set(hooks);
    unlock();
}

/// Puts the fork handlers in place; later calls do nothing.
///
/// To be called before any thread that forks exists, e.g. while a module is
/// being imported.
pub fn install() {
    if INSTALLED.load(Ordering::Relaxed) {
        return;
    }
    lock();
    if !INSTALLED.load(Ordering::Relaxed) {
        // SAFETY: the handlers are plain functions that live as long as the code
        // does (an extension module is never unloaded), and they only touch the
        // statics above.
        let status = unsafe { at_fork(before_fork, after_in_parent, after_in_child) };
        // ENOMEM is the only failure; then a fork is as unguarded as before.
        INSTALLED.store(status == 0, Ordering::Relaxed);
    }
    unlock();
}

/// A number that differs between a process and its forked children.
pub fn epoch() -> u32 {
    EPOCH.load(Ordering::Relaxed)
}

/// This process's id, mostly without a system call. Of a child that was made past the C
/// library (no handler ran) it is the parent's, as [`epoch`].
pub fn pid() -> u32 {
    match PID.load(Ordering::Relaxed) {
        0 => {
            let pid = std::process::id();
            if INSTALLED.load(Ordering::Relaxed) {
                PID.store(pid, Ordering::Relaxed);
            }
            pid
        }
        pid => pid,
    }
}

/// Runs `spawn`, which may fork, while the caller holds the lock.
///
/// The C library may implement a spawn by `fork`, which runs the handlers on this
/// very thread; they then leave the lock alone. The child only calls `exec`.
pub fn spawning<T, R>(_held: &mut ForkGuard<'_, T>, spawn: impl FnOnce() -> R) -> R {
    struct Reset;
    impl Drop for Reset {
        fn drop(&mut self) {
            SPAWNING.set(false);
        }
    }
    SPAWNING.set(true);
    let _reset = Reset;
    spawn()
}

/// `pthread_atfork`, which old glibc has only in a static part that not every
/// linker takes along, so its other half is called: that is in every libc.so.
///
/// # Safety
///
/// The handlers must be sound to run around any fork, for as long as the process lives.
#[cfg(target_env = "gnu")]
unsafe fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> libc::c_int {
    unsafe extern "C" {
        fn __register_atfork(
            before: extern "C" fn(),
            in_parent: extern "C" fn(),
            in_child: extern "C" fn(),
            shared_object: *mut libc::c_void,
        ) -> libc::c_int;
    }
    // SAFETY: the signature is glibc's; the handlers are as the caller promises.
    // No shared object: they are never taken out again.
    unsafe { __register_atfork(before, in_parent, in_child, std::ptr::null_mut()) }
}

/// As above.
///
/// # Safety
///
/// As above.
#[cfg(not(target_env = "gnu"))]
unsafe fn at_fork(
    before: extern "C" fn(),
    in_parent: extern "C" fn(),
    in_child: extern "C" fn(),
) -> libc::c_int {
    // SAFETY: the handlers are as the caller promises.
    unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) }
}

extern "C" fn before_fork() {
    if !SPAWNING.get() {
        lock();
        if let Some(hooks) = HOOKS.get() {
            (hooks.before)(&mut Forking(()));
        }
    }
}

extern "C" fn after_in_parent() {
    if !SPAWNING.get() {
        if let Some(hooks) = HOOKS.get() {
            (hooks.in_parent)(&mut Forking(()));
        }
        unlock();
    }
}

extern "C" fn after_in_child() {
    EPOCH.fetch_add(1, Ordering::Relaxed);
    PID.store(0, Ordering::Relaxed);
    if !SPAWNING.get() {
        if let Some(hooks) = HOOKS.get() {
            (hooks.in_child)(&mut Forking(()));
        }
        // No other thread exists here, so nobody sleeps whatever the word says.
        WORD.store(FREE, Ordering::Release);
    }
}

fn lock() {
    if WORD
        .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
        .is_err()
    {
        lock_slow();
    }
}

#[cold]
fn lock_slow() {
    // Taking the lock as `WAITED` costs at most one needless wake; taking it as
    // `HELD` could forget a sleeper.
    while WORD.swap(WAITED, Ordering::Acquire) != FREE {
        // Any return means: look again. The word is private to the process.
        let _ = futex::wait(&WORD, futex::Flags::PRIVATE, WAITED, None);
    }
}

fn unlock() {
    if WORD.swap(FREE, Ordering::Release) == WAITED {
        let _ = futex::wake(&WORD, futex::Flags::PRIVATE, 1);
    }
}

/// A value guarded by the process-wide fork lock.
#[derive(Debug, Default)]
pub struct ForkGuarded<T>(UnsafeCell<T>);

// SAFETY: the value is reached through `lock` only, by one thread at a time, so
// sharing a `ForkGuarded` moves `T` between threads and never shares it.
unsafe impl<T: Send> Sync for ForkGuarded<T> {}

impl<T> ForkGuarded<T> {
    /// Guards `value`.
    pub const fn new(value: T) -> Self {
        ForkGuarded(UnsafeCell::new(value))
    }

    /// Waits for the lock. Not to be called by a thread that holds it.
    pub fn lock(&self) -> ForkGuard<'_, T> {
        lock();
        ForkGuard {
            guarded: self,
            _on_this_thread: PhantomData,
        }
    }

    /// The value, in a hook.
    pub fn in_hook<'a>(&'a self, _forking: &'a mut Forking) -> &'a mut T {
        // SAFETY: a `Forking` exists only while a handler runs with the lock held, so no
        // guard lives, on this thread or another; it is borrowed for as long as the
        // result, so that there is no second such reference.
        unsafe { &mut *self.0.get() }
    }
}

/// The lock is held while this lives, on the thread that took it.
///
/// Who lends it to another thread lends the value, which must bear that:
///
/// ```compile_fail
/// use shared_numpy_core::sys::fork::ForkGuard;
/// fn lend<T: Sync>() {}
/// lend::<ForkGuard<'static, std::cell::Cell<u32>>>();
/// ```
///
/// ```
/// use shared_numpy_core::sys::fork::ForkGuard;
/// fn lend<T: Sync>() {}
/// lend::<ForkGuard<'static, u32>>();
/// ```
#[derive(Debug)]
pub struct ForkGuard<'a, T> {
    guarded: &'a ForkGuarded<T>,
    /// Neither `Send` nor by itself `Sync`: a `ForkGuarded` is `Sync` whenever its value can
    /// be moved, which says nothing about looking at it from two threads at a time.
    _on_this_thread: PhantomData<*const ()>,
}

// SAFETY: through a shared guard the value can only be looked at, by all who have it.
unsafe impl<T: Sync> Sync for ForkGuard<'_, T> {}

impl<T> Deref for ForkGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while its thread holds the one lock, so no
        // other reference to the value exists but those borrowed from `self`.
        unsafe { &*self.guarded.0.get() }
    }
}

impl<T> DerefMut for ForkGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { &mut *self.guarded.0.get() }
    }
}

impl<T> Drop for ForkGuard<'_, T> {
    fn drop(&mut self) {
        unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn threads_exclude_each_other() {
        install();
        let counter = Arc::new(ForkGuarded::new(0_u32));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        *counter.lock() += 1;
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(*counter.lock(), 8000);
    }
}

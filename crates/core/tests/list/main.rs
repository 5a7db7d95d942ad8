//! Lists through their public face.

mod damage;
#[path = "../garbage_common/mod.rs"]
mod garbage_common;
mod layouts;
mod model;
mod world;

//! Lists through their public face.

mod damage;
mod layouts;
mod model;
mod world;

//! What the privileged tests share: namespaces, and for the end-to-end tests the real binaries running in them.

pub mod binaries;
pub mod host;
pub mod lab;
pub mod netns;
pub mod plugins;
pub mod program;
pub mod reach;
pub mod wire;

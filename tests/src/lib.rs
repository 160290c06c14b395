//! What the privileged tests share.

pub mod netns;

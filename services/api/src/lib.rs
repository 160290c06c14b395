//! Services as libraries: the C ABI (`include/freena_service.h` is made from [`abi`]) and the Rust interface behind it.
//!
//! A service in Rust implements [`Service`] and is exported by [`export_service!`]; no unsafe code is its own. What a service
//! must and must not do is said at the C types.

pub mod abi;
mod export;
mod message;
mod service;

pub use export::describe;
pub use message::Message;
pub use service::{
    Agreement, Figures, Flow, Info, Kind, Mode, NEVER, Passed, Promise, Refusal, Role, Service, Setup, Step,
    Trouble, Verdict, parameter,
};

/// Exports a [`Service`] as the symbol that a service library must have.
#[macro_export]
macro_rules! export_service {
    ($service:ty) => {
        /// The service, as the C ABI describes it.
        // SAFETY: no other symbol of a service library has this name.
        #[unsafe(no_mangle)]
        #[allow(non_upper_case_globals, reason = "the name that the C ABI gives it")]
        pub static freena_service: $crate::abi::FreenaService = $crate::describe::<$service>();
    };
}

//! Service libraries as this host sees them: found in the service folders only, their parameters checked against their own
//! tables, and every call held to what the service has promised.
//!
//! A service is part of the program's own process. What it breaks by wrong pointers cannot be contained; what it returns is
//! checked: a fault ends the flow, and the service is not called for it again.

mod error;
mod instance;
mod library;
mod parameters;
mod reference;

pub use error::{LoadError, OpenError, ParameterError, Trouble};
pub use freena_service_api::abi;
pub use instance::{Context, Direction, Instance, Outcome};
pub use library::{DEFAULT_FOLDER, Library, MAX_FILE_NAME, MAX_NAME, SYMBOL, load_all};
pub use parameters::{Checked, Parameter, ParameterKind};
pub use reference::reference;

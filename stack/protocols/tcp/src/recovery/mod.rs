//! Loss recovery: what is in flight, how long a round trip takes, what is lost.

pub(crate) mod rack;
pub(crate) mod rtt;
pub(crate) mod scoreboard;

pub(crate) use rack::Rack;
pub(crate) use rtt::Rtt;
pub(crate) use scoreboard::{Scoreboard, Sent};

//! Scripts in the manner of packetdrill, each beside the section of the RFC that it plays.

#[path = "../support/mod.rs"]
mod support;

mod acknowledgements;
mod attacks;
mod closing;
mod handshake;
mod recovery;
mod sending;
mod timers;
mod window;

/// A connection that a peer has opened, with SACK, window scale 7 and a segment size of 1000, no timestamps.
const OPEN: &str = "
+0 listen
+0 < S 0:0(0) win 65535 mss 1000 sackok wscale 7
+0 > S. 0:0(0) ack 1 mss 1460 wscale 7 sackok
+0.1 < . 1:1(0) ack 1 win 1000
";

/// Runs a script on a connection that is open.
fn open(text: &str) -> support::script::Script {
    let mut script = support::script::Script::new();
    script.run(OPEN);
    script.run(text);
    script
}

//! The service that authenticates peers and messages, and leaves them readable.

use freena_service_api::abi::{FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Agreement, Figures, Info, Message, Promise, Refusal, Service, Setup, Verdict, parameter,
};
use freena_service_secure::{Secured, Suite, parameters};

struct Auth(Secured);

impl Service for Auth {
    const INFO: Info = Info {
        name: c"auth",
        about: c"Proves that the peer has the key and that each message is the peer's; encrypts nothing.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::agreed(parameter::choice(
                c"algorithm",
                c"HMAC-SHA-256|BLAKE3",
                c"HMAC-SHA-256",
                c"What authenticates each message, with 16 bytes.",
            )),
            parameters::KEY,
            parameters::REKEY,
            parameters::CLOCK_SKEW,
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        let suite = if setup.value("algorithm") == Some("BLAKE3") { Suite::Blake3 } else { Suite::Hmac };
        Secured::open(suite, setup).map(|(secured, promise)| (Self(secured), promise))
    }

    fn announce(&mut self, out: &mut [u8]) -> usize {
        self.0.announce(out)
    }

    fn agree(&mut self, agreement: &Agreement<'_>) -> Result<(), Refusal> {
        self.0.agree(agreement)
    }

    fn outbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.0.outbound(message)
    }

    fn inbound(&mut self, message: &mut Message<'_>) -> Verdict {
        self.0.inbound(message)
    }

    fn statistics(&self, figure: Figures<'_>) {
        self.0.statistics(figure);
    }
}

freena_service_api::export_service!(Auth);

//! The service that encrypts.

use freena_service_api::abi::{FREENA_SERVICE_DATAGRAM, FREENA_SERVICE_STREAM};
use freena_service_api::{
    Agreement, Figures, Info, Message, Promise, Refusal, Service, Setup, Verdict, parameter,
};
use freena_service_secure::{Secured, Suite, parameters};

struct Crypto(Secured);

fn suite(setup: &Setup<'_>) -> Suite {
    if setup.value("algorithm") == Some("ChaCha20") {
        return Suite::ChaCha;
    }
    let bits = match setup.value("key_size") {
        Some("128") => 128,
        Some("192") => 192,
        _ => 256,
    };
    match setup.value("mode") {
        Some("CTR") => Suite::Ctr(bits),
        Some("CBC") => Suite::Cbc(bits),
        _ => Suite::Gcm(bits),
    }
}

impl Service for Crypto {
    const INFO: Info = Info {
        name: c"crypto",
        about: c"Encrypts and authenticates what the program sends, with a key that both ends have.",
        version: 1,
        kinds: FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
        parameters: &[
            parameter::agreed(parameter::choice(
                c"algorithm",
                c"AES|ChaCha20",
                c"AES",
                c"The cipher. ChaCha20 always comes with Poly1305 and a key of 256 bits, whatever `key_size` and `mode` say.",
            )),
            parameter::agreed(parameter::choice(
                c"key_size",
                c"128|192|256",
                c"256",
                c"Bits of the key of AES. 128 is somewhat faster.",
            )),
            parameter::agreed(parameter::choice(
                c"mode",
                c"GCM|CTR|CBC",
                c"GCM",
                c"The mode of AES. CTR and CBC come with HMAC-SHA-256 and are slower.",
            )),
            parameters::KEY,
            parameters::REKEY,
            parameters::CLOCK_SKEW,
        ],
    };

    fn open(setup: &Setup<'_>) -> Result<(Self, Promise), Refusal> {
        Secured::open(suite(setup), setup).map(|(secured, promise)| (Self(secured), promise))
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

freena_service_api::export_service!(Crypto);

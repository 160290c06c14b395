//! What insertion costs beside the work of a service: AES-128-GCM through the chain and the C ABI, and the same calls to
//! the same library in the program's own source.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use freena_service_chain::{Buffer, Flow, Resolved, Role, StreamFlow};
use freena_service_host::{Checked, Library};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use std::fs;
use std::hint::black_box;
use std::io::IoSlice;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const SIZES: [usize; 5] = [64, 256, 1024, 16_384, 65_536];

fn service(name: &str, parameters: &[(&str, &str)]) -> Resolved {
    let folder = std::env::current_exe().expect("a path").parent().expect("a folder").to_owned();
    let path = Library::find(&[folder], name, None).expect("built beside the benchmark");
    // SAFETY: it is of this workspace.
    let library = Arc::new(unsafe { Library::open(&path) }.expect("a library"));
    let parameters = Checked::new(name, library.parameters(), parameters).expect("parameters");
    Resolved { library, parameters }
}

/// A client and a server that agree.
fn pair(services: &[Resolved]) -> (StreamFlow, StreamFlow) {
    let flow = |role| Flow {
        transport: 6,
        role,
        local: ([127, 0, 0, 1], 1).into(),
        peer: ([127, 0, 0, 1], 2).into(),
        allow_plain: false,
    };
    let mut client = StreamFlow::new(services, flow(Role::Client), 0).expect("a flow");
    let mut server = StreamFlow::new(services, flow(Role::Server), 0).expect("a flow");
    let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
    for _ in 0..3 {
        client.transmit(0, &mut wire);
        server.open(0, wire.as_slice(), &mut plain, 1).expect("agreed");
        wire.clear();
        server.transmit(0, &mut wire);
        client.open(0, wire.as_slice(), &mut plain, 1).expect("agreed");
        wire.clear();
    }
    (client, server)
}

fn seal(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, format!("freena-key 1 shared {}\n", "5a".repeat(32))).expect("a file");
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).expect("its mode");
    let key = key.to_str().expect("a path");
    let crypto = service("crypto", &[("key", key), ("key_size", "128"), ("rekey", "65536")]);
    let mut group = criterion.benchmark_group("seal and open");
    for size in SIZES {
        let plain = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        for (name, services) in [("crypto", vec![crypto.clone()]), ("trace", vec![service("trace", &[])])] {
            let (mut client, mut server) = pair(&services);
            let (mut wire, mut out) = (Buffer::new(), Buffer::new());
            group.bench_function(BenchmarkId::new(name, size), |bench| {
                bench.iter(|| {
                    client.seal(1, &[IoSlice::new(black_box(&plain))], &mut wire).expect("sealed");
                    server.open(1, wire.as_slice(), &mut out, usize::MAX).expect("opened");
                    wire.clear();
                    out.clear();
                });
            });
        }
        let direct = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("a key"));
        let (mut wire, mut out) = (vec![0u8; 70_000], vec![0u8; 70_000]);
        let mut number = 0u64;
        group.bench_function(BenchmarkId::new("crypto called directly", size), |bench| {
            bench.iter(|| {
                let mut at = 0;
                for chunk in black_box(&plain).chunks(16_384) {
                    number += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&number.to_be_bytes());
                    let nonce = || Nonce::assume_unique_for_key(nonce);
                    let sealed = &mut wire[at..at + chunk.len() + 16];
                    let (body, tag) = sealed.split_at_mut(chunk.len());
                    body.copy_from_slice(chunk);
                    tag.copy_from_slice(
                        direct
                            .seal_in_place_separate_tag(nonce(), Aad::from([1; 4]), body)
                            .expect("sealed")
                            .as_ref(),
                    );
                    let opened = &mut out[at..at + sealed.len()];
                    opened.copy_from_slice(sealed);
                    direct.open_in_place(nonce(), Aad::from([1; 4]), opened).expect("opened");
                    at += sealed.len();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, seal);
criterion_main!(benches);

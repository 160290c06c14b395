use super::*;
use freena_shm_abi::flows::Record;
use std::mem::offset_of;
use zerocopy::IntoBytes;

/// A file with one flow of this process's.
fn file(told: Told) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows");
    let file = File::create(&path).unwrap();
    allocate(&file).unwrap();
    let mut head = MAGIC.to_ne_bytes().to_vec();
    head.extend(FLOWS_VERSION.to_ne_bytes());
    head.extend(5u32.to_ne_bytes());
    head.extend(b"x.xml");
    file.write_all_at(&head, 0).unwrap();
    let record = size_of::<Head>() as u64;
    file.write_all_at(&std::process::id().to_ne_bytes(), record).unwrap();
    file.write_all_at(told.as_bytes(), record + offset_of!(Record, told) as u64).unwrap();
    (folder, path)
}

fn failed() -> Told {
    let mut told = Told {
        begun: monotonic(),
        ended: monotonic(),
        refused: 1,
        local: [0; 16],
        peer: std::net::Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets(),
        local_port: 40000,
        peer_port: 21,
        transport: 6,
        state: state::FAILED,
        errno: libc::EPERM as u32,
        lengths: [24, 9, 0],
        ..Told::default()
    };
    told.services[..24].copy_from_slice(b"crypto (rule in line 8)\x1b");
    told.reason[..9].copy_from_slice(b"wrong key");
    told
}

#[test]
fn a_flow_is_told_with_its_services_its_state_and_why_it_ended() {
    let (_folder, path) = file(failed());
    let words = print::words(&[read::file(&path).unwrap()]);
    for expected in [
        "x.xml",
        "TCP [::]:40000 -> 10.0.0.2:21 client",
        "services: crypto (rule in line 8)",
        "failed 0 s ago by EPERM; 1 messages refused",
        "why: wrong key",
    ] {
        assert!(words.contains(expected), "{expected}: {words}");
    }
    assert!(!words.contains('\x1b'), "what a program writes does not reach the terminal as it is");
}

#[test]
fn flows_of_processes_that_are_gone_are_told_if_they_have_failed() {
    let (_folder, path) = file(failed());
    let record = size_of::<Head>() as u64;
    let write = |told: &Told, pid: u32| {
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&pid.to_ne_bytes(), record).unwrap();
        file.write_all_at(told.as_bytes(), record + offset_of!(Record, told) as u64).unwrap();
        read::file(&path).unwrap().flows
    };
    let gone = i32::MAX as u32;
    assert!(matches!(&write(&failed(), gone)[..], [flow] if !flow.lives));
    let open = Told { state: state::OPEN, ended: 0, ..failed() };
    assert!(write(&open, gone).is_empty());
    assert!(matches!(&write(&open, std::process::id())[..], [flow] if flow.lives));
    // A process that began after the flow is another one.
    assert!(write(&Told { begun: 1, ..open }, std::process::id()).is_empty());
}

#[test]
fn what_is_no_file_of_flows_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    for bytes in [vec![], vec![0; SIZE], b"freena\0\0".repeat(SIZE / 8)] {
        fs::write(&path, bytes).unwrap();
        assert!(read::file(&path).is_err());
    }
}

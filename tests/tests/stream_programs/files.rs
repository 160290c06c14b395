//! Files over FTP and SSH: vsftpd with lftp and curl, OpenSSH.

use crate::hosts::{Hosts, assert_same, noise, run, run_with, with_programs, with_programs_over_all};
use freena_tests::lab::NEAR4;
use freena_tests::program::Program;
use std::path::Path;
use std::process::Command;

const LARGE: usize = 10 << 20;

#[test]
fn vsftpd_serves_lftp_and_curl() {
    with_programs_over_all(
        "vsftpd_serves_lftp_and_curl",
        ["vsftpd", "lftp", "curl"],
        |hosts, [vsftpd, lftp, curl]| {
            let root = hosts.folder("ftp");
            hosts.file("ftp/large", noise(LARGE));
            let inbox = hosts.folder("ftp/inbox");
            run_with(Command::new("chown"), &format!("ftp {}", inbox.display()));
            let configuration = format!(
                "listen=YES\nlisten_address={NEAR4}\nlisten_port=2121\nbackground=NO\nanonymous_enable=YES\nwrite_enable=YES\n\
             anon_upload_enable=YES\nanon_root={}\nport_enable=YES\npasv_enable=YES\nconnect_from_port_20=NO\n\
             anon_umask=022\nxferlog_enable=NO\nsecure_chroot_dir={}\n",
                root.display(),
                hosts.folder("empty").display()
            );
            let path = hosts.file("vsftpd.conf", configuration);
            let mut command = hosts.near(vsftpd);
            command.arg(path);
            let mut vsftpd = Program::start(command);
            hosts.wait_for_port(2121);
            for passive in ["yes", "no"] {
                let script = format!(
                    "set net:timeout 10; set net:max-retries 1; set ftp:passive-mode {passive}; set xfer:clobber yes;\n\
                 open ftp://{NEAR4}:2121; ls; get large -o {got}; cd inbox; put {got} -o up-{passive}; \
                 ls; get up-{passive} -o {back}; bye",
                    got = hosts.lab.path("got").display(),
                    back = hosts.lab.path("back").display()
                );
                let mut command = hosts.far(lftp);
                command.args(["--norc", "-c", &script]);
                let listing = run(command);
                assert!(listing.contains(&format!("up-{passive}")), "{listing}");
                for name in ["got", "back", &format!("ftp/inbox/up-{passive}")] {
                    assert_same(&std::fs::read(hosts.lab.path(name)).expect("a file"), &noise(LARGE), name);
                }
            }
            let got = hosts.lab.path("by-curl");
            let mut command = hosts.far(curl);
            command.args(["--silent", "--show-error", "--max-time", "30", "--output"]).arg(&got);
            run_with(command, &format!("ftp://{NEAR4}:2121/large"));
            assert_same(&std::fs::read(got).expect("a file"), &noise(LARGE), "by curl");
            assert!(vsftpd.is_running());
        },
    );
}

/// sshd with a key of its own, which lets in one key of root's.
fn sshd(hosts: &Hosts, sshd: &Path, keygen: &Path) -> Program {
    let folder = hosts.folder("ssh");
    for name in ["host", "user"] {
        let mut command = Command::new(keygen);
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(name));
        run(command);
    }
    std::fs::create_dir_all("/run/sshd").expect("where sshd locks its children up");
    let folder = folder.display();
    let configuration = format!(
        "ListenAddress {NEAR4}:2222\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\nStrictModes no\n\
         PermitRootLogin yes\nUsePAM no\nPidFile none\nSubsystem sftp internal-sftp\nPasswordAuthentication no\n\
         AllowTcpForwarding yes\n"
    );
    let path = hosts.file("sshd_config", configuration);
    let mut command = hosts.near(sshd);
    command.args(["-D", "-e", "-f"]).arg(path);
    Program::start(command)
}

#[test]
fn openssh_runs_commands_and_copies() {
    let names = ["sshd", "ssh", "scp", "sftp", "ssh-keygen"];
    // Before sshd knows who is there, its child allows itself a few system calls only (seccomp).
    with_programs("openssh_runs_commands_and_copies", names, |hosts, [sshd_, ssh, scp, sftp, keygen]| {
        let mut sshd = sshd(hosts, sshd_, keygen);
        hosts.wait_for_port(2222);
        let options = format!(
            "-F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
             -o ConnectTimeout=10 -o LogLevel=ERROR -i {}",
            hosts.lab.path("ssh/user").display()
        );
        let mut command = hosts.far(ssh);
        command.args(options.split_whitespace()).args([
            "-p",
            "2222",
            &format!("root@{NEAR4}"),
            "echo said by $((6*7))",
        ]);
        assert_eq!(run(command).trim(), "said by 42");
        let (large, bytes) = hosts.noise("large", LARGE);
        // Both ways at once through one session.
        let mut command = hosts.far("/bin/sh");
        command.arg("-c").arg(format!(
            "{} {options} -p 2222 root@{NEAR4} cat < {} > {}",
            ssh.display(),
            large.display(),
            hosts.lab.path("through").display()
        ));
        run(command);
        assert_same(&std::fs::read(hosts.lab.path("through")).expect("a file"), &bytes, "through cat");
        let (there, back) = (hosts.lab.path("there"), hosts.lab.path("back"));
        let (there, back) = (there.display(), back.display());
        for (from, to) in [
            (large.display().to_string(), format!("root@{NEAR4}:{there}")),
            (format!("root@{NEAR4}:{there}"), back.to_string()),
        ] {
            run_with(hosts.far(scp), &format!("{options} -q -P 2222 {from} {to}"));
        }
        assert_same(&std::fs::read(hosts.lab.path("back")).expect("a file"), &bytes, "by scp there and back");
        let batch = hosts.file("batch", format!("put {} {there}-sftp\nls {there}-sftp\n", large.display()));
        let listing =
            run_with(hosts.far(sftp), &format!("{options} -P 2222 -b {} root@{NEAR4}", batch.display()));
        assert!(listing.contains("there-sftp"), "{listing}");
        assert_same(&std::fs::read(hosts.lab.path("there-sftp")).expect("a file"), &bytes, "by sftp");
        assert!(sshd.is_running());
    });
}

//! The paper's own example (docs/ftp.md): vsftpd and an FTP client, the control connection encrypted, data connections
//! compressed, over the kernel's TCP. What is on the wire is looked at.

use freena_tests::binaries::{freena, installed};
use freena_tests::lab::{Lab, NEAR4};
use freena_tests::netns::privileged;
use freena_tests::program::{PATIENCE, Program, output};
use freena_tests::wire::{capture, shows};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// Part of a guide's code block: from the line that begins with `start` to the next one that is `end`.
fn block(guide: &str, start: &str, end: &str) -> String {
    let from = guide.find(start).unwrap_or_else(|| panic!("docs/ftp.md has no {start}"));
    let rest = &guide[from..];
    rest[..rest.find(end).unwrap_or_else(|| panic!("docs/ftp.md has no {end} behind {start}"))].to_owned()
}

/// What compresses well, and a line of it that the wire must not show.
const LINE: &[u8] = b"a line of a file that is sent over and over again, which compression makes short\n";

struct Example<'l> {
    lab: &'l Lab,
    vsftpd: PathBuf,
    lftp: PathBuf,
}

impl Example<'_> {
    /// A file of the lab's, which any user may read.
    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.lab.path(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.lab.path(name);
        std::fs::create_dir_all(&path).expect("a folder");
        let open = || std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.lab.path(""), open()).expect("a folder of ours");
        std::fs::set_permissions(&path, open()).expect("a folder of ours");
        path
    }

    /// The guide's configuration with a key of the lab's.
    fn configuration(&self, guide: &str, name: &str) -> PathBuf {
        let key = self.lab.path(&format!("{name}.key"));
        let mut command = Command::new(freena("freena"));
        command.arg("keygen").arg(&key);
        assert!(output(command).status.success());
        let text = block(guide, "<?xml", "```").replace("/etc/freena/ftp.key", &key.display().to_string());
        self.file(&format!("{name}.xml"), text.as_bytes())
    }

    /// vsftpd with the guide's settings and the lab's folders; ready.
    fn serve(&self, guide: &str, configuration: &Path) -> Program {
        let inbox = self.folder("ftp/inbox");
        let mut command = Command::new("chown");
        command.arg("ftp").arg(&inbox);
        assert!(output(command).status.success());
        let root = self.folder("ftp").display().to_string();
        let settings: String = block(guide, "    listen=YES", "\n\n")
            .lines()
            .map(|line| format!("{}\n", line.trim().replace("/srv/ftp", &root)))
            .collect();
        let more = format!(
            "secure_chroot_dir={}\nwrite_enable=YES\nanon_upload_enable=YES\nanon_umask=022\nxferlog_enable=NO\n",
            self.folder("empty").display()
        );
        let path = self.file("vsftpd.conf", (settings + &more).as_bytes());
        let mut command = self.lab.near(freena("freena"));
        command.args(["run", "--config"]).arg(configuration).arg("--").arg(&self.vsftpd).arg(path);
        let server = Program::start(command);
        let listens = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("the kernel's table");
            table.lines().any(|line| line.contains(":0015 ") && line.contains(" 0A "))
        };
        let deadline = Instant::now() + PATIENCE;
        while !self.lab.pair.near.run(listens) {
            assert!(Instant::now() < deadline, "vsftpd does not listen: {}", server.errors());
            thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// lftp on the far host, under this configuration or none.
    fn ask(&self, configuration: Option<&Path>, commands: &str) -> std::process::Output {
        let mut command = match configuration {
            Some(path) => {
                let mut command = self.lab.far(freena("freena"));
                command.args(["run", "--config"]).arg(path).arg("--").arg(&self.lftp);
                command
            }
            None => self.lab.far(&self.lftp),
        };
        let settings =
            "set net:timeout 5; set net:max-retries 1; set ftp:passive-mode no; set xfer:clobber yes;";
        command.args(["--norc", "-c", &format!("{settings} open ftp://{NEAR4}; {commands}; bye")]);
        output(command)
    }
}

#[test]
fn the_papers_example_works_as_the_guide_says_and_shows_nothing_on_the_wire() {
    let name = "the_papers_example_works_as_the_guide_says_and_shows_nothing_on_the_wire";
    let (Some(vsftpd), Some(lftp)) = (installed("vsftpd"), installed("lftp")) else {
        eprintln!("SKIPPED: vsftpd or lftp is not installed");
        let required = std::env::var_os("FREENA_REQUIRE_PRIVILEGED").is_some_and(|value| value == "1");
        assert!(!required, "both must be installed (FREENA_REQUIRE_PRIVILEGED=1)");
        return;
    };
    privileged(name, || {
        let lab = Lab::new();
        let example = Example { lab: &lab, vsftpd, lftp };
        let guide = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ftp.md"));
        let guide = guide.expect("the guide");
        let configuration = example.configuration(&guide, "ftp");
        example.folder("ftp");
        let large = LINE.repeat(40_000);
        example.file("ftp/large", &large);
        let mut server = example.serve(&guide, &configuration);
        let seen = lab.pair.near.run(capture);

        let (got, back) = (lab.path("got"), lab.path("back"));
        let commands = format!(
            "ls; get large -o {got}; cd inbox; put {got} -o up; ls; get up -o {back}",
            got = got.display(),
            back = back.display()
        );
        let asked = example.ask(Some(&configuration), &commands);
        let said = String::from_utf8_lossy(&asked.stdout);
        assert!(
            said.contains("large") && said.contains(" up"),
            "{said} {} {}",
            String::from_utf8_lossy(&asked.stderr),
            server.errors()
        );
        for path in [&got, &lab.path("ftp/inbox/up"), &back] {
            let same = std::fs::read(path).is_ok_and(|it| it == large);
            assert!(same, "{}: {said} {}", path.display(), String::from_utf8_lossy(&asked.stderr));
        }
        // The data of three transfers and two listings, shortened, and the control connection.
        let length = seen.lock().expect("no panic").len();
        assert!((1000..large.len()).contains(&length), "{length} bytes on the wire");
        for plain in ["220 (vsFTPd", "USER anonymous", "230 Login", "PORT 10,0,0,2", "RETR large", "226 "] {
            assert!(!shows(&seen, plain.as_bytes()), "the wire shows {plain}");
        }
        assert!(!shows(&seen, LINE));

        // Another key, and a client without freena: refused, with nothing said by the server.
        let other = example.configuration(&guide, "other");
        for (name, configuration) in [("another key", Some(other.as_path())), ("no freena", None)] {
            let refused = example.ask(configuration, "ls");
            assert!(!String::from_utf8_lossy(&refused.stdout).contains("large"), "{name}: {refused:?}");
        }
        for plain in ["220 (vsFTPd", "230 Login", "large"] {
            assert!(!shows(&seen, plain.as_bytes()), "the wire shows {plain}");
        }
        assert!(server.is_running());
    });
}

//! redis, memcached and PostgreSQL.

use crate::hosts::{Hosts, assert_same, noise, run, run_with, with, with_programs, with_programs_over_all};
use freena_tests::binaries;
use freena_tests::lab::NEAR4;
use freena_tests::program::{PATIENCE, Program};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

const REDIS: u16 = 6379;

fn redis(hosts: &Hosts, command: Command, more: &str) -> Program {
    let mut command = command;
    command.args(["--save", ""]);
    let mut command = with(command, "--appendonly no --protected-mode no --daemonize no");
    command.arg("--dir").arg(hosts.folder("redis"));
    Program::start(with(command, more))
}

fn near_redis(hosts: &Hosts, program: &Path) -> Program {
    let redis = redis(hosts, hosts.near(program), &format!("--bind {NEAR4} --port {REDIS}"));
    hosts.wait_for_port(REDIS);
    redis
}

fn cli(hosts: &Hosts, program: &Path, arguments: &str) -> String {
    let mut command = hosts.far(program);
    command.args(["-h", NEAR4, "-p", &REDIS.to_string()]);
    run_with(command, arguments).trim().to_owned()
}

#[test]
fn redis_keeps_values() {
    with_programs_over_all(
        "redis_keeps_values",
        ["redis-server", "redis-cli", "redis-benchmark"],
        |hosts, programs| {
            let [server, client, benchmark] = programs;
            let _server = near_redis(hosts, server);
            assert_eq!(cli(hosts, client, "set key value"), "OK");
            assert_eq!(cli(hosts, client, "get key"), "value");
            // A large value, from standard input, and back.
            let large = hosts.file("value", noise(4 << 20));
            let mut command = hosts.far("/bin/sh");
            command.arg("-c").arg(format!(
            "{c} -h {NEAR4} -x set large < {f} && {c} -h {NEAR4} --raw get large | head -c {n} > {f}.back",
            c = client.display(),
            f = large.display(),
            n = 4 << 20
        ));
            run(command);
            let back = std::fs::read(large.with_extension("back")).expect("what redis kept");
            assert_same(&back, &noise(4 << 20), "a value of 4 MiB");
            // Fifty clients, one by one and in batches.
            for (how, tests) in [("-P 1", "set,get,incr,lpush,lrange_100,mset"), ("-P 16", "set,get")] {
                let arguments = format!("-h {NEAR4} -p {REDIS} -q -c 50 -n 5000 {how} -t {tests}");
                let report = run_with(hosts.far(benchmark), &arguments);
                assert!(report.contains("GET: ") && report.contains("requests per second"), "{report}");
                assert!(!report.to_lowercase().contains("error"), "{report}");
            }
            assert_eq!(cli(hosts, client, "get counter:__rand_int__"), "5000", "no increment is lost");
            // Somebody who listens.
            let mut command = hosts.far(client);
            command.args(["-h", NEAR4, "--raw", "subscribe", "news"]);
            let mut listener = Program::start(command);
            assert_eq!(
                (listener.line(), listener.line(), listener.line()),
                ("subscribe".into(), "news".into(), "1".into())
            );
            assert_eq!(cli(hosts, client, "publish news something"), "1");
            assert_eq!(
                (listener.line(), listener.line(), listener.line()),
                ("message".into(), "news".into(), "something".into())
            );
        },
    );
}

#[test]
fn redis_replicates() {
    with_programs("redis_replicates", ["redis-server", "redis-cli"], |hosts, [server, client]| {
        let _near = near_redis(hosts, server);
        run({
            let mut command = hosts.far("/bin/sh");
            command.arg("-c").arg(format!(
                "i=0; while [ $i -lt 20000 ]; do echo SET key$i value$i; i=$((i+1)); done | {} -h {NEAR4} --pipe",
                client.display()
            ));
            command
        });
        let digest = cli(hosts, client, "debug digest");
        let socket = hosts.lab.path("replica");
        let arguments = format!("--replicaof {NEAR4} {REDIS} --port 0 --unixsocket {}", socket.display());
        let _far = redis(hosts, hosts.far(server), &arguments);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut command = hosts.lab.far(client);
            command.arg("-s").arg(&socket).args(["debug", "digest"]);
            let got = command.output().expect("redis-cli");
            if String::from_utf8_lossy(&got.stdout).trim() == digest {
                break;
            }
            assert!(Instant::now() < deadline, "the replica is not the same: {got:?}");
            thread::sleep(Duration::from_millis(50));
        }
    });
}

#[test]
fn redis_killed_starts_again_at_once() {
    with_programs(
        "redis_killed_starts_again_at_once",
        ["redis-server", "redis-cli"],
        |hosts, [server, client]| {
            for round in 0..5 {
                let mut redis = near_redis(hosts, server);
                assert_eq!(cli(hosts, client, "ping"), "PONG", "round {round}");
                let mut command = hosts.far(client);
                command.args(["-h", NEAR4, "blpop", "never", "0"]);
                let mut waiting = Program::start(command);
                let deadline = Instant::now() + PATIENCE;
                while !cli(hosts, client, "info clients").contains("blocked_clients:1") {
                    assert!(Instant::now() < deadline, "nobody waits");
                }
                redis.kill();
                let started = Instant::now();
                waiting.wait();
                assert!(
                    started.elapsed() < Duration::from_secs(5),
                    "told only after {:?}",
                    started.elapsed()
                );
            }
        },
    );
}

#[test]
fn memcached_keeps_values() {
    with_programs("memcached_keeps_values", ["memcached", "python3"], |hosts, [memcached, _]| {
        let arguments = format!("-u memcache -l {NEAR4} -p 11211 -U 0 -t 4 -m 128 -I 4m");
        let mut memcached = Program::start(with(hosts.near(memcached), &arguments));
        hosts.wait_for_port(11211);
        let mut command = hosts.far(binaries::python());
        command.arg(binaries::script("memcached.py")).args([NEAR4, "11211"]);
        assert_eq!(run(command).trim(), "32 clients: all values as they were kept");
        assert!(memcached.is_running());
    });
}

#[test]
fn pgbench_loads_postgresql() {
    // Not by name: Debian keeps the server out of the path.
    let Some(folder) = postgresql() else {
        with_programs("pgbench_loads_postgresql", ["postgres"], |_, _| {});
        return;
    };
    with_programs(
        "pgbench_loads_postgresql",
        ["pgbench", "psql", "setpriv"],
        |hosts, [pgbench, psql, setpriv]| {
            let data = hosts.folder("data");
            run_with(Command::new("chown"), &format!("postgres {}", data.display()));
            let user = "--reuid=postgres --regid=postgres --init-groups --";
            let initdb =
                format!("{user} {}/initdb --no-sync --auth=trust -D {}", folder.display(), data.display());
            run_with(Command::new(setpriv), &initdb);
            std::fs::write(data.join("pg_hba.conf"), "host all all all trust\n").expect("a file");
            let arguments = format!(
                "{user} {}/postgres -D {} -c listen_addresses={NEAR4} -c unix_socket_directories= -c fsync=off",
                folder.display(),
                data.display()
            );
            let mut server = Program::start(with(hosts.near(setpriv), &arguments));
            hosts.wait_for_port(5432);
            server.expect_error("ready to accept connections");
            let at = format!("-h {NEAR4} -U postgres");
            run_with(hosts.far(pgbench), &format!("{at} --initialize --quiet --scale=1 postgres"));
            for more in ["-c 8 -j 2 -t 100", "-c 4 -j 2 -t 50 --protocol=prepared", "-c 4 -t 25 --connect"] {
                let report = run_with(hosts.far(pgbench), &format!("{at} --no-vacuum {more} postgres"));
                assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{more}: {report}");
            }
            let ask = |question: &str| {
                let mut command = with(hosts.far(psql), &at);
                command.args(["--tuples-only", "--no-align", "--command", question, "postgres"]);
                run(command).trim().to_owned()
            };
            assert_eq!(ask("select count(*) from pgbench_history"), (8 * 100 + 4 * 50 + 4 * 25).to_string());
            let same = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)";
            assert_eq!(ask(same), "t", "all money is where it belongs");
            // Megabytes of rows at once.
            let rows =
                ask("copy (select i, repeat(md5(i::text), 4) from generate_series(1, 50000) i) to stdout");
            assert_eq!(rows.lines().count(), 50_000);
            server.signal(libc::SIGINT);
            server.succeed();
        },
    );
}

fn postgresql() -> Option<std::path::PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions.flatten().map(|version| version.path().join("bin")).find(|path| path.join("postgres").is_file())
}

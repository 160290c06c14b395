//! The committed XML schema: current, valid, and no stricter than the reader.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn committed() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("freena.xsd")
}

#[test]
fn the_committed_schema_is_current() {
    let file = std::fs::read_to_string(committed()).expect("config/freena.xsd");
    assert!(file == freena_config::xsd(), "config/freena.xsd is out of date: run `cargo xtask xsd`");
}

/// What xmllint says about `xml` under the committed schema; `None` where there is no xmllint.
fn xmllint(xml: &[u8]) -> Option<Result<(), String>> {
    let child = Command::new("xmllint")
        .args(["--noout", "--nonet", "--schema"])
        .arg(committed())
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("NOT CHECKED: no xmllint on this machine (Debian: apt install libxml2-utils)");
        return None;
    };
    child.stdin.take().unwrap().write_all(xml).unwrap();
    let output = child.wait_with_output().unwrap();
    Some(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let paper = include_bytes!("fixtures/paper-figure-2.xml");
    let everything = include_bytes!("fixtures/everything.xml");
    for valid in [&paper[..], &everything[..]] {
        let configuration =
            freena_config::Configuration::from_bytes(valid, "fixture").unwrap_or_else(|e| panic!("{e}"));
        for xml in [valid, configuration.to_xml().as_bytes()] {
            if let Some(verdict) = xmllint(xml) {
                verdict.unwrap_or_else(|message| panic!("{message}"));
            }
        }
    }
}

#[test]
fn the_schema_refuses_what_it_can_say() {
    for content in [
        "<service name='a'/>",
        "<services><service/></services>",
        "<services><using-rules/><using-rules/></services>",
        "<services><using-rules><rule use='yes'/></using-rules></services>",
        "<services><using-rules><rule use='true' port='a'/></using-rules></services>",
        "<services><using-rules><rule use='true' type='both'/></using-rules></services>",
        "<protocols><default name='UDP' type='dgram'/></protocols>",
        "<protocols><default name='UDP' lib='/lib/libudp.so'/></protocols>",
    ] {
        let xml = format!("<configuration application='a'>{content}</configuration>");
        assert!(freena_config::Configuration::from_bytes(xml.as_bytes(), "refused").is_err(), "{xml}");
        if let Some(verdict) = xmllint(xml.as_bytes()) {
            assert!(verdict.is_err(), "{xml}");
        }
    }
}

//! The examples of `docs/configuration.md` are what it says they are.

use freena_config::Configuration;

const PAGE: &str = include_str!("../../docs/configuration.md");

#[test]
fn examples_can_be_pasted() {
    let examples: Vec<_> =
        PAGE.split("```xml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let whole: Vec<_> = examples.iter().filter(|example| example.starts_with("<?xml")).collect();
    assert_eq!(whole.len(), 3);
    for example in whole {
        Configuration::from_bytes(example.as_bytes(), "example")
            .unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    let root =
        examples.iter().find(|example| example.starts_with("<configuration")).expect("the editor's root");
    Configuration::from_bytes(format!("{root}</configuration>").as_bytes(), "root").unwrap();
}

#[test]
fn the_error_is_the_one_shown() {
    let figure = include_str!("fixtures/paper-figure-2.xml");
    let slip = figure.replacen("SCTP\" type", "SCPT\" type", 1);
    let error = Configuration::from_bytes(slip.as_bytes(), "ftp.xml").unwrap_err().to_string();
    assert!(PAGE.contains(&format!("\n    {error}\n")), "not in the page: {error}");
}

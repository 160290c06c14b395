use super::*;

fn verdicts(list: &[(&str, Verdict)]) -> Verdicts {
    list.iter().map(|(test, verdict)| ((*test).to_owned(), verdict.clone())).collect()
}

fn entry(test: &str) -> Entry {
    let difference = Difference {
        test: test.to_owned(),
        without: Some(Verdict::Passed),
        with: Some(Verdict::Hung),
        explanation: None,
    };
    Entry {
        suite: &SUITES[0],
        without: Counts::default(),
        with: Counts::default(),
        failed_alike: Vec::new(),
        differences: vec![difference],
    }
}

#[test]
fn another_kind_of_verdict_and_an_absent_test_are_differences_and_another_reason_is_none() {
    let failed = |why: &str| Verdict::Failed(why.to_owned());
    let without = verdicts(&[
        ("a", Verdict::Passed),
        ("b", failed("one")),
        ("c", Verdict::Passed),
        ("d", Verdict::Hung),
    ]);
    let with =
        verdicts(&[("a", failed("x")), ("b", failed("two")), ("d", Verdict::Hung), ("e", Verdict::Passed)]);
    let found: Vec<String> = differences(&without, &with).into_iter().map(|d| d.test).collect();
    assert_eq!(found, ["a", "c", "e"]);
}

#[test]
fn a_difference_needs_its_reason() {
    let mut entries = [entry("t.C.a")];
    let none =
        Explanations::parse("# nothing\n\n").expect("a table").apply(&mut entries).expect("no stale reason");
    assert_eq!(none.len(), 1, "{none:?}");
    assert!(
        report::document(&DATAGRAMS, "1", &entries, &[])
            .contains("t.C.a: passed without freena, hung with it. NOT EXPLAINED")
    );

    let table = format!("{}\tt.C.a\tBecause.\n", SUITES[0].name);
    let none = Explanations::parse(&table).expect("a table").apply(&mut entries).expect("no stale reason");
    assert!(none.is_empty(), "{none:?}");
    assert!(
        report::document(&DATAGRAMS, "1", &entries, &[])
            .contains("t.C.a: passed without freena, hung with it. Because.")
    );
}

#[test]
fn a_reason_without_a_difference_is_refused() {
    let table = format!("{}\tt.C.gone\tBecause.\n", SUITES[0].name);
    let error = Explanations::parse(&table).expect("a table").apply(&mut []).expect_err("a stale reason");
    assert!(error.contains("t.C.gone"), "{error}");
}

#[test]
fn a_malformed_reason_is_refused_with_its_line() {
    let error = Explanations::parse("# comment\nonly two\tfields\n").err().expect("an error");
    assert!(error.contains("explanations.tsv:2:") && error.contains("only two"), "{error}");
}

#[test]
fn a_changed_count_is_shown_both_ways() {
    assert_eq!(changed_lines("same\nold\n", "same\nnew\n"), "- old\n+ new\n");
}

#[test]
fn what_differs_now_and_then_is_written_down() {
    let unstable = [format!("{}: {}", SUITES[0].name, entry("t.C.a").differences[0])];
    let document = report::document(&DATAGRAMS, "1", &[], &unstable);
    assert!(
        document.ends_with("- sockets, loopback: t.C.a: passed without freena, hung with it\n"),
        "{document}"
    );
}

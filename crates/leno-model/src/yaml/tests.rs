//! Texts and their trees, and what hostile texts get.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn json_of(text: &str) -> Value {
    parse_document(text, 0).unwrap_or_else(|e| panic!("{text:?}: {e:?}")).to_json()
}

#[test]
fn scalars_follow_the_core_schema() {
    for (text, expected) in [
        ("a: 1", json!({"a": 1})),
        ("a: '1'", json!({"a": "1"})),
        ("a: -7", json!({"a": -7})),
        ("a: +7", json!({"a": 7})),
        ("a: 0x1F", json!({"a": 31})),
        ("a: 0o17", json!({"a": 15})),
        ("a: 010", json!({"a": "010"})),
        ("a: 1.5e3", json!({"a": 1500.0})),
        ("a: .5", json!({"a": 0.5})),
        ("a: 1.2.3", json!({"a": "1.2.3"})),
        ("a: 10.0.0.1", json!({"a": "10.0.0.1"})),
        ("a: 18446744073709551615", json!({"a": 18_446_744_073_709_551_615_u64})),
        ("a: true", json!({"a": true})),
        ("a: yes", json!({"a": "yes"})),
        ("a: on", json!({"a": "on"})),
        ("a: .nan", json!({"a": ".nan"})),
        ("a: infinity", json!({"a": "infinity"})),
        ("a: null\nb: ~\nc:", json!({})),
        ("a: !!str 5", json!({"a": "5"})),
        ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
        ("a: {b: [1, {c: d}]}", json!({"a": {"b": [1, {"c": "d"}]}})),
        ("a: &x {b: 1}\nc: *x", json!({"a": {"b": 1}, "c": {"b": 1}})),
        ("1: x\ntrue: y", json!({"1": "x", "true": "y"})),
        ("{\"a\":\t\"\\ud83d\\ude00\\/\"}", json!({"a": "😀/"})),
    ] {
        assert_eq!(json_of(text), expected, "{text:?}");
    }
}

#[test]
fn hostile_texts_are_refused() {
    let bomb = (0..9).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, i| {
        format!("{text}a{}: &a{} [{}]\n", i + 1, i + 1, vec![format!("*a{i}"); 9].join(", "))
    });
    let long_string = format!("a: &a {}\nb: [{}]", "x".repeat(500_000), vec!["*a"; 1000].join(","));
    let deep_alias =
        (0..70).fold("a0: &a0 [x]\n".to_owned(), |text, i| format!("{text}a{}: &a{} [*a{i}]\n", i + 1, i + 1));
    for (text, code, message) in [
        (bomb, Code::LimitExceeded, "too many values"),
        (long_string, Code::LimitExceeded, "too many values"),
        (deep_alias, Code::LimitExceeded, "nested deeper"),
        ("[".repeat(100), Code::LimitExceeded, "nested deeper"),
        (format!("a: {}1{}", "[".repeat(70), "]".repeat(70)), Code::LimitExceeded, "nested deeper"),
        ("{\"a\":".repeat(100), Code::LimitExceeded, "nested deeper"),
        ("- ".repeat(1000), Code::LimitExceeded, "nested deeper"),
        ("a: 1\na: 2".to_owned(), Code::Syntax, "twice"),
        ("{\"a\": 1, \"a\": 2}".to_owned(), Code::Syntax, "twice"),
        ("a: &x [*x]".to_owned(), Code::Syntax, "alias"),
        ("a: *nowhere".to_owned(), Code::Syntax, ""),
        ("a: !!binary aGk=".to_owned(), Code::Syntax, "tag"),
        ("a: !exec rm".to_owned(), Code::Syntax, "tag"),
        ("? [a]\n: b".to_owned(), Code::Syntax, "key must be text"),
        ("a: [1".to_owned(), Code::Syntax, ""),
        ("a: b\n c: d".to_owned(), Code::Syntax, ""),
        ("a:\n\t- b".to_owned(), Code::Syntax, ""),
    ] {
        let shown: String = text.chars().take(60).collect();
        let error = parse_document(&text, 0).expect_err(&shown);
        assert!(error.code == code && error.message.contains(message), "{shown:?}: {error:?}");
    }
}

#[test]
fn documents_are_cut_at_their_markers() {
    let text = "# head\n%YAML 1.2\n---\na: 1\n--- # two\nb: |\n  ---\n  x\n...\n---\n---   \n[broken\n---\nc: 3";
    let found: Vec<_> =
        split_documents(text).into_iter().map(|(line, t)| (line, parse_document(t, line).ok())).collect();
    let json: Vec<_> = found.iter().map(|(line, n)| (*line, n.as_ref().map(Node::to_json))).collect();
    assert_eq!(
        json,
        [(2, Some(json!({"a": 1}))), (4, Some(json!({"b": "---\nx\n"}))), (10, None), (12, Some(json!({"c": 3})))]
    );
    assert!(split_documents("").is_empty() && split_documents("---\n# x\n\n---\n").is_empty());
    assert_eq!(split_documents("a: 1\n----\n").len(), 1);
}

#[test]
fn positions_count_lines_and_characters() {
    let node = parse_document("---\nspec:\n  ports:\n  - port: 80\n    näme: {x: é, y: z}\n", 10).unwrap();
    let at = |path: FieldPath| {
        let p = node.position_of(&path);
        (p.line, p.column)
    };
    let port = FieldPath::root().key("spec").key("ports").index(0);
    assert_eq!(at(port.key("port")), (14, 11));
    assert_eq!(at(port.key("näme").key("y")), (15, 21));
    // What is not there gets the position of what is around it.
    assert_eq!(at(port.key("absent").index(7)), at(port));
}

/// Trees as YAML flow text, for the round trip.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z0-9.~-]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[a-zA-Z./ -]{1,8}", inner, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn json_text_reads_as_itself(value in values()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        for text in [value.to_string(), pretty] {
            let parsed = parse_document(&format!("{{\"v\": {text}}}"), 0).unwrap().to_json();
            prop_assert_eq!(&parsed["v"], &value);
        }
    }

    #[test]
    fn any_text_ends_without_a_panic(text in "(?s).{0,200}") {
        for (line, document) in split_documents(&text) {
            let _ = parse_document(document, line);
        }
    }

    #[test]
    fn any_yaml_shaped_text_ends_without_a_panic(text in "([ \n\t:\\-\\[\\]{}&*!|>?,#%'\"@`a-c0-2]|--- |\\.\\.\\.|: |- ){0,120}") {
        for (line, document) in split_documents(&text) {
            let _ = parse_document(document, line);
        }
    }
}

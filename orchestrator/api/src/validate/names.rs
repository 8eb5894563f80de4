//! Rules for names, labels and keys.
//!
//! Source: RFC 1123, RFC 1035 and `k8s.io/apimachinery/pkg/util/validation`. Each function returns
//! the sentence that tells what is wrong.

const LABEL_1123: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_1123: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'-')
}

/// A DNS label: at most 63 bytes.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) {
        wrong.push(LABEL_1123.to_owned());
    }
    wrong
}

/// A DNS label that begins with a letter (RFC 1035), as the names of Services: at most 63 bytes.
pub fn dns_label_1035(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !is_label(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        wrong.push(LABEL_1035.to_owned());
    }
    wrong
}

/// A DNS subdomain: at most 253 bytes.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    if !text.split('.').all(is_label) {
        wrong.push(SUBDOMAIN_1123.to_owned());
    }
    wrong
}

fn is_name_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A key of a label or an annotation: an optional DNS prefix, a slash, a name.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) => {
            if name.contains('/') {
                return vec![format!(
                    "a qualified name must consist of alphanumeric characters, '-', '_' or '.', with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
                )];
            }
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".into());
            }
            wrong.extend(
                dns_subdomain(prefix)
                    .iter()
                    .filter(|_| !prefix.is_empty())
                    .map(|w| format!("prefix part {w}")),
            );
            name
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        wrong.push(format!("name part {}", too_long(63)));
    }
    if !is_name_part(name) {
        wrong.push(QUALIFIED.to_owned());
    }
    wrong
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 63 {
        wrong.push(too_long(63));
    }
    if !text.is_empty() && !is_name_part(text) {
        wrong.push(LABEL_VALUE.to_owned());
    }
    wrong
}

/// A key of a ConfigMap or a Secret: also a file name.
pub fn config_key(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 253 {
        wrong.push(too_long(253));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if text.is_empty() || !text.bytes().all(plain) {
        wrong.push(CONFIG_KEY.to_owned());
    } else if text == "." || text == ".." {
        wrong.push(format!("must not be '{text}'"));
    } else if text.starts_with("..") {
        wrong.push("must not start with '..'".into());
    }
    wrong
}

/// The name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        Vec::new()
    } else {
        vec![ENV_NAME.to_owned()]
    }
}

/// The name of a port (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if text.len() > 15 {
        wrong.push(too_long(15));
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        wrong.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if text.contains("--") {
        wrong.push("must not contain consecutive hyphens".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        wrong.push("must not begin or end with a hyphen".into());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_refuses() {
        type Rule = fn(&str) -> Vec<String>;
        let cases: [(Rule, &[&str], &[&str]); 6] = [
            (
                dns_label,
                &["a", "a-1", "1a"],
                &["", "A", "-a", "a-", "a.b", "a_b"],
            ),
            (dns_subdomain, &["a.b", "web-1.x"], &["", ".a", "a..b", "A.b"]),
            (
                qualified_name,
                &["app", "k8s.io/app", "A_b.c"],
                &["", "/a", "a/", "a/b/c", "a b", "-a"],
            ),
            (label_value, &["", "v1.0_x"], &["-x", "a b", "é"]),
            (
                config_key,
                &["a.b", "KEY_1", ".x"],
                &["", "a/b", ".", "..", "..x"],
            ),
            (
                port_name,
                &["http", "p-1"],
                &["HTTP", "1", "a--b", "a-", "abcdefghijklmnop"],
            ),
        ];
        for (at, (rule, good, bad)) in cases.iter().enumerate() {
            for text in *good {
                assert!(rule(text).is_empty(), "rule {at} refuses {text:?}");
            }
            for text in *bad {
                assert!(!rule(text).is_empty(), "rule {at} accepts {text:?}");
            }
        }
        assert!(env_name("A_B").is_empty() && !env_name("A=B").is_empty() && !env_name("").is_empty());
        assert!(!dns_label(&"a".repeat(64)).is_empty());
    }
}

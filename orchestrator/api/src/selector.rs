//! Label and field selectors.
//!
//! Grammar and rules: Kubernetes documentation "Labels and Selectors" and apimachinery's
//! `labels.Parse`; field selectors know `=`, `==` and `!=` only.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::kinds::{Alias, Kind};

/// Why a selector was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// The text does not follow the grammar.
    #[error("unable to parse requirement: {0}")]
    Syntax(String),
    /// The field cannot be selected on for this kind.
    #[error("field label not supported: {0}")]
    UnknownField(String),
    /// A label selector object names an operator that does not exist.
    #[error("{0:?} is not a valid label selector operator")]
    UnknownOperator(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

/// A parsed label selector: all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    /// Parses the query form, such as `app=web,tier in (a,b),!debug`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for part in split_top_level(text)? {
            if !part.is_empty() {
                requirements.push(parse_requirement(part)?);
            }
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Reads the object form (`matchLabels`, `matchExpressions`).
    ///
    /// An absent selector selects nothing, an empty one everything, as upstream.
    pub fn from_object(selector: Option<&Value>) -> Result<Self, SelectorError> {
        let Some(selector) = selector.filter(|s| !s.is_null()) else {
            return Ok(Self {
                requirements: Vec::new(),
                nothing: true,
            });
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement {
                    key: key.clone(),
                    operator: Operator::In(vec![value]),
                });
            }
        }
        for term in selector
            .get("matchExpressions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            requirements.push(expression(term)?);
        }
        Ok(Self {
            requirements,
            nothing: false,
        })
    }

    /// Whether every label set matches.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty() && !self.nothing
    }

    /// Whether a label set matches.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// Whether the labels of an object match.
    pub fn matches_object(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels");
        self.matches_with(|key| labels?.get(key)?.as_str())
    }

    fn matches_with<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(label(&r.key)))
    }
}

/// The query form, in the order of keys; nothing at all for a selector that selects nothing.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Requirement> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (at, Requirement { key, operator }) in sorted.into_iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            let list = |values: &[String]| {
                let mut values = values.to_vec();
                values.sort();
                values.join(",")
            };
            match operator {
                Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Operator::In(values) => write!(f, "{key} in ({})", list(values))?,
                Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0])?,
                Operator::NotIn(values) => write!(f, "{key} notin ({})", list(values))?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::Absent => write!(f, "!{key}")?,
                Operator::Greater(number) => write!(f, "{key}>{number}")?,
                Operator::Less(number) => write!(f, "{key}<{number}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, value: Option<&str>) -> bool {
        match (&self.operator, value) {
            (Operator::In(set), Some(v)) => set.iter().any(|s| s == v),
            (Operator::NotIn(set), Some(v)) => !set.iter().any(|s| s == v),
            (Operator::NotIn(_) | Operator::Absent, None) | (Operator::Exists, Some(_)) => true,
            (Operator::Greater(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v > *n),
            (Operator::Less(n), Some(v)) => v.parse::<i64>().is_ok_and(|v| v < *n),
            (Operator::Absent, Some(_)) | (_, None) => false,
        }
    }
}

fn expression(term: &Value) -> Result<Requirement, SelectorError> {
    let key = term
        .get("key")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let operator = term.get("operator").and_then(Value::as_str).unwrap_or_default();
    let values: Vec<String> = term
        .get("values")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect();
    let operator = match operator {
        "In" => Operator::In(values),
        "NotIn" => Operator::NotIn(values),
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::Absent,
        other => return Err(SelectorError::UnknownOperator(other.to_owned())),
    };
    Ok(Requirement { key, operator })
}

/// Splits at commas outside parentheses.
fn split_top_level(text: &str) -> Result<Vec<&str>, SelectorError> {
    let mut parts = Vec::new();
    let (mut start, mut open) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if !open => open = true,
            ')' if open => open = false,
            '(' | ')' => return Err(SelectorError::Syntax(format!("unbalanced {c:?} in {text:?}"))),
            ',' if !open => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if open {
        return Err(SelectorError::Syntax(format!("missing ')' in {text:?}")));
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

fn parse_requirement(part: &str) -> Result<Requirement, SelectorError> {
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement {
            key: label_key(key)?,
            operator: Operator::Absent,
        });
    }
    if let Some((head, set)) = part.split_once('(') {
        return set_requirement(part, head, set);
    }
    for (mark, negated) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = part.split_once(mark) {
            let value = label_value(value)?;
            let operator = if negated {
                Operator::NotIn(vec![value])
            } else {
                Operator::In(vec![value])
            };
            return Ok(Requirement {
                key: label_key(key)?,
                operator,
            });
        }
    }
    for (mark, greater) in [('>', true), ('<', false)] {
        if let Some((key, value)) = part.split_once(mark) {
            let number = value.trim().parse().map_err(|_| {
                SelectorError::Syntax(format!("for '{mark}' the value must be an integer: {part:?}"))
            })?;
            let operator = if greater {
                Operator::Greater(number)
            } else {
                Operator::Less(number)
            };
            return Ok(Requirement {
                key: label_key(key)?,
                operator,
            });
        }
    }
    Ok(Requirement {
        key: label_key(part)?,
        operator: Operator::Exists,
    })
}

fn set_requirement(part: &str, head: &str, set: &str) -> Result<Requirement, SelectorError> {
    let set = set
        .strip_suffix(')')
        .ok_or_else(|| SelectorError::Syntax(format!("text after ')' in {part:?}")))?;
    let values = set.split(',').map(label_value).collect::<Result<Vec<_>, _>>()?;
    let mut words = head.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(key), Some("in"), None) => Ok(Requirement {
            key: label_key(key)?,
            operator: Operator::In(values),
        }),
        (Some(key), Some("notin"), None) => Ok(Requirement {
            key: label_key(key)?,
            operator: Operator::NotIn(values),
        }),
        _ => Err(SelectorError::Syntax(format!(
            "found {part:?}, expected: in, notin"
        ))),
    }
}

fn label_key(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    let ok = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
        && text.matches('/').count() <= 1;
    if ok {
        Ok(text.to_owned())
    } else {
        Err(SelectorError::Syntax(format!("invalid label key {text:?}")))
    }
}

fn label_value(text: &str) -> Result<String, SelectorError> {
    let text = text.trim();
    let ok = text.len() <= 63
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if ok {
        Ok(text.to_owned())
    } else {
        Err(SelectorError::Syntax(format!("invalid label value {text:?}")))
    }
}

/// A parsed field selector, bound to the fields its kind can be selected on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<FieldTerm>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldTerm {
    path: String,
    value: String,
    negated: bool,
}

/// Fields that can be selected on, beside `metadata.name` and `metadata.namespace`.
fn selectable(kind: &Kind) -> &'static [&'static str] {
    match kind.kind {
        "Pod" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        "Event" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        "Namespace" => &["status.phase"],
        "Node" => &["spec.unschedulable"],
        "Secret" => &["type"],
        "ReplicaSet" => &["status.replicas"],
        _ => &[],
    }
}

impl FieldSelector {
    /// Parses the query form for a kind, such as `metadata.name=web,status.phase!=Running`.
    pub fn parse(kind: &Kind, text: &str) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_fields(text).iter().filter(|p| !p.is_empty()) {
            let (path, value, negated) = if let Some((p, v)) = part.split_once("!=") {
                (p, v, true)
            } else if let Some((p, v)) = part.split_once("==") {
                (p, v, false)
            } else if let Some((p, v)) = part.split_once('=') {
                (p, v, false)
            } else {
                return Err(SelectorError::Syntax(format!(
                    "invalid field selector {part:?}: use field=value or field!=value"
                )));
            };
            let known = path == "metadata.name"
                || (path == "metadata.namespace" && kind.namespaced)
                || selectable(kind).contains(&path);
            if !known {
                return Err(SelectorError::UnknownField(path.to_owned()));
            }
            terms.push(FieldTerm {
                path: path.to_owned(),
                value: unescape(value),
                negated,
            });
        }
        Ok(Self { terms })
    }

    /// The query form for a stored kind of one that was written for another version or group of it.
    pub fn translated(alias: &Alias, text: &str) -> Result<String, SelectorError> {
        let mut terms = Vec::new();
        for part in split_fields(text).into_iter().filter(|p| !p.is_empty()) {
            let end = part.find(['=', '!']).unwrap_or(part.len());
            let (path, rest) = part.split_at(end);
            let known = alias.selectable.iter().find(|(ours, _)| *ours == path);
            let path = match known {
                Some((_, stored)) => *stored,
                None if path.starts_with("metadata.") => path,
                None => return Err(SelectorError::UnknownField(path.to_owned())),
            };
            terms.push(format!("{path}{rest}"));
        }
        Ok(terms.join(","))
    }

    /// Whether every object matches.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object matches.
    pub fn matches_object(&self, object: &Value) -> bool {
        self.terms
            .iter()
            .all(|t| (field_text(object, &t.path) == t.value) != t.negated)
    }

    /// Whether an object of this place matches; `None` if the place alone does not tell.
    pub fn matches_place(&self, namespace: &str, name: &str) -> Option<bool> {
        let mut told = true;
        for term in &self.terms {
            let text = match term.path.as_str() {
                "metadata.name" => name,
                "metadata.namespace" => namespace,
                _ => {
                    told = false;
                    continue;
                }
            };
            if (text == term.value) == term.negated {
                return Some(false);
            }
        }
        told.then_some(true)
    }
}

/// Splits at commas that no backslash escapes.
fn split_fields(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    out
}

fn field_text(object: &Value, path: &str) -> String {
    let path = if path == "source" {
        "source.component"
    } else {
        path
    };
    let mut at = object;
    for segment in path.split('.') {
        match at.get(segment) {
            Some(next) => at = next,
            // Upstream compares booleans as text, and an absent one is false.
            None if path.ends_with(".hostNetwork") || path.ends_with(".unschedulable") => {
                return "false".into();
            }
            None => return String::new(),
        }
    }
    match at {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors() {
        let cases = [
            ("", "", true),
            ("app=web", "app=web,x=y", true),
            ("app==web", "app=db", false),
            ("app!=web", "", true),
            ("app!=web", "app=web", false),
            ("app in (web, db)", "app=db", true),
            ("app notin (web,db)", "app=db", false),
            ("app notin (web,db)", "", true),
            ("app", "app=", true),
            ("!app", "app=1", false),
            ("a=1,b in (x,y),!c", "a=1,b=y", true),
            ("a=1,b in (x,y),!c", "a=1,b=y,c=", false),
            ("n>3", "n=4", true),
            ("n<3", "n=4", false),
            ("app=", "app=", true),
        ];
        for (selector, set, expected) in cases {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(set)), expected, "{selector:?} on {set:?}");
        }
        for bad in [
            "app in web",
            "app in (a",
            "a=b c",
            "=x",
            "a)b",
            "a in (b))",
            "n>x",
            "a//b",
        ] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn object_selectors() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}],
        });
        let parsed = LabelSelector::from_object(Some(&selector)).unwrap();
        assert!(parsed.matches(&labels("app=web")));
        assert!(!parsed.matches(&labels("app=web,tier=x")));
        assert!(!LabelSelector::from_object(None).unwrap().matches(&labels("")));
        assert!(
            LabelSelector::from_object(Some(&json!({})))
                .unwrap()
                .matches(&labels("a=b"))
        );
    }

    #[test]
    fn selectors_in_their_query_form() {
        let object = json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [
                {"key": "c", "operator": "In", "values": ["z", "y"]}, {"key": "a", "operator": "DoesNotExist"},
                {"key": "d", "operator": "NotIn", "values": ["1"]}, {"key": "e", "operator": "Exists"},
            ],
        });
        let selector = LabelSelector::from_object(Some(&object)).unwrap();
        let text = selector.to_string();
        assert_eq!(text, "!a,b=1,c in (y,z),d!=1,e");
        assert_eq!(LabelSelector::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn field_selectors() {
        let pod = json!({"metadata": {"name": "a", "namespace": "d"}, "status": {"phase": "Running"}});
        let cases = [
            ("metadata.name=a", true, Some(true)),
            ("metadata.name!=a", false, Some(false)),
            ("metadata.namespace=d,metadata.name!=b", true, Some(true)),
            ("status.phase=Running,metadata.namespace=e", false, Some(false)),
            ("metadata.name=a,status.phase=Failed", false, None),
            ("status.phase=Running,spec.nodeName=", true, None),
            ("spec.hostNetwork=false", true, None),
        ];
        for (text, expected, by_place) in cases {
            let parsed = FieldSelector::parse(kinds::POD, text).unwrap();
            assert_eq!(parsed.matches_object(&pod), expected, "{text}");
            assert_eq!(parsed.matches_place("d", "a"), by_place, "{text}");
        }
        assert_eq!(
            FieldSelector::parse(kinds::POD, "spec.containers=x"),
            Err(SelectorError::UnknownField("spec.containers".into()))
        );
        assert!(FieldSelector::parse(kinds::NODE, "metadata.namespace=x").is_err());
        assert_eq!(
            FieldSelector::parse(kinds::POD, r"metadata.name=a\,b")
                .unwrap()
                .matches_place("d", "a,b"),
            Some(true)
        );
    }

    #[test]
    fn fields_of_another_version() {
        let events = kinds::ALIASES.iter().find(|a| a.stored == kinds::EVENT).unwrap();
        let translated = |text: &str| FieldSelector::translated(events, text);
        assert_eq!(
            translated("regarding.name=a=b,reason!=c,metadata.name==d").unwrap(),
            "involvedObject.name=a=b,reason!=c,metadata.name==d"
        );
        assert_eq!(
            translated("involvedObject.name=a"),
            Err(SelectorError::UnknownField("involvedObject.name".into()))
        );
    }
}

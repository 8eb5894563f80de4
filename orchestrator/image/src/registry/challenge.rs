//! `WWW-Authenticate` (RFC 9110, section 11.6.1): what a registry wants to see.

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of the token server at `realm` (distribution's "Token Authentication").
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
        /// Why the last token was not enough.
        error: Option<String>,
    },
}

impl Challenge {
    /// The strongest challenge of a header that we can meet.
    pub(crate) fn of(header: &str) -> Option<Self> {
        let mut basic = false;
        for (scheme, parameters) in challenges(header) {
            let parameter = |name: &str| {
                parameters
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Self::Bearer {
                    realm,
                    service: parameter("service"),
                    scope: parameter("scope"),
                    error: parameter("error"),
                });
            }
            basic |= scheme.eq_ignore_ascii_case("basic");
        }
        basic.then_some(Self::Basic)
    }
}

type Parameters = Vec<(String, String)>;

/// Splits a header into its challenges: `scheme key=value, key="quoted", scheme …`.
fn challenges(header: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = rest[end..].trim_start_matches([' ', '\t']);
        if word.is_empty() {
            break;
        }
        if let Some(after) = rest.strip_prefix('=') {
            let (value, left) = value(after.trim_start());
            if let Some((_, parameters)) = found.last_mut() {
                parameters.push((word.to_owned(), value));
            }
            rest = left;
        } else {
            found.push((word.to_owned(), Vec::new()));
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    found
}

fn value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
            error: None,
        };
        for (header, expected) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a/b:pull,push\"",
                Some(bearer("https://a/t", Some("r"), Some("repository:a/b:pull,push"))),
            ),
            (
                "Basic realm=x, bearer realm = \"y \\\"q\\\"\"",
                Some(bearer("y \"q\"", None, None)),
            ),
            ("Negotiate", None),
            ("Bearer service=x", None),
            ("", None),
            ("=", None),
            ("Bearer realm=\"open", Some(bearer("open", None, None))),
        ] {
            assert_eq!(Challenge::of(header), expected, "{header}");
        }
    }
}

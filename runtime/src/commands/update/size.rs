//! Sizes of memory as Docker's and runc's options take them: `64m`, `1.5GiB`, `1024`.

/// Bytes; units are powers of 1024 whether written with or without `i`. `None` for what is no size.
pub(super) fn parse(text: &str) -> Option<i64> {
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let number: f64 = number.parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let exponent = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    // Only these endings may follow the letter.
    if exponent > 0 && !["", "b", "ib"].contains(&&unit[1..]) {
        return None;
    }
    let bytes = number * 1024f64.powi(exponent);
    (bytes < 9.2e18).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("32 MiB", 32 << 20),
            ("1.5g", 3 << 29),
            ("2T", 2 << 40),
            ("1pb", 1 << 50),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for bad in [
            "", "m", "-1", "-5m", "1x", "1bb", "1mi", "1mbb", "1kbi", "1..5m", "nan", "1e3", "99999p",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

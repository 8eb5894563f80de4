//! Resource quantities: `500m`, `1.5`, `256Mi`, `1e3`.
//!
//! Source: apimachinery `pkg/api/resource/quantity.go` (grammar, canonical form). Kept exactly, in
//! billionths, which is the finest that upstream keeps.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Text that is not a quantity, or one out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a quantity: use a number with an optional suffix such as m, k, M, G, Ki, Mi, Gi")]
pub struct ParseQuantityError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    BinarySi,
    DecimalSi,
    Exponent,
}

/// An exact quantity with the notation it was written in.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const BILLION: i128 = 1_000_000_000;
const BINARY: [(&str, i128); 6] = [
    ("Ei", 1 << 60),
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
];
/// Decimal suffixes as powers of ten.
const DECIMAL: [(&str, i32); 10] = [
    ("E", 18),
    ("P", 15),
    ("T", 12),
    ("G", 9),
    ("M", 6),
    ("k", 3),
    ("", 0),
    ("m", -3),
    ("u", -6),
    ("n", -9),
];

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::DecimalSi,
    };

    /// So many whole units.
    pub fn whole(number: i64) -> Self {
        Self {
            nanos: i128::from(number) * BILLION,
            format: Format::DecimalSi,
        }
    }

    /// The sum, in the notation of the larger part, as upstream keeps that of the first that is not zero.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format: if self.nanos == 0 {
                other.format
            } else {
                self.format
            },
        }
    }

    /// The difference, in this one's notation.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format,
        }
    }

    /// The value in whole units, rounded up, as upstream's `Value()`: bytes of memory.
    pub fn ceil(self) -> i64 {
        clamp(-(-self.nanos).div_euclid(BILLION))
    }

    /// The value in thousandths, rounded up, as upstream's `MilliValue()`: millicores.
    pub fn milli(self) -> i64 {
        clamp(-(-self.nanos).div_euclid(BILLION / 1000))
    }

    /// Whether it is below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// Whether it has no fraction.
    pub fn is_whole(self) -> bool {
        self.nanos % BILLION == 0
    }
}

fn clamp(n: i128) -> i64 {
    i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        if let Some((_, factor)) = BINARY.iter().find(|(s, _)| *s == suffix) {
            return Ok(Self {
                nanos: scaled(number, *factor, 0)?,
                format: Format::BinarySi,
            });
        }
        if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            return Ok(Self {
                nanos: scaled(number, 1, *power)?,
                format: Format::DecimalSi,
            });
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError)?;
        let power: i32 = exponent.parse().map_err(|_| ParseQuantityError)?;
        Ok(Self {
            nanos: scaled(number, 1, power)?,
            format: Format::Exponent,
        })
    }
}

/// `number` x `factor` x 10^`power` in billionths; finer digits round away from zero.
fn scaled(number: &str, factor: i128, power: i32) -> Result<i128, ParseQuantityError> {
    let (negative, digits) = match number.as_bytes().first() {
        Some(b'-') => (true, &number[1..]),
        Some(b'+') => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() + fraction.len() > 30 {
        return Err(ParseQuantityError);
    }
    let mut value: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        if !digit.is_ascii_digit() {
            return Err(ParseQuantityError);
        }
        value = value * 10 + i128::from(digit - b'0');
    }
    value = value.checked_mul(factor).ok_or(ParseQuantityError)?;
    let shift = power + 9 - fraction.len() as i32;
    if value != 0 {
        let power_of_ten = 10_i128
            .checked_pow(shift.unsigned_abs())
            .filter(|_| shift.abs() < 39)
            .ok_or(ParseQuantityError)?;
        value = if shift >= 0 {
            value.checked_mul(power_of_ten).ok_or(ParseQuantityError)?
        } else {
            (value + power_of_ten - 1) / power_of_ten
        };
    }
    Ok(if negative { -value } else { value })
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that allows that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos / BILLION;
        if self.format == Format::BinarySi && self.is_whole() {
            // Below 1024 the binary notation falls back to the decimal one, as upstream.
            if let Some((suffix, factor)) = BINARY.iter().find(|(_, factor)| whole % factor == 0) {
                return write!(f, "{}{suffix}", whole / factor);
            }
            return write!(f, "{whole}");
        }
        for (suffix, power) in DECIMAL {
            let unit = 10_i128.pow((power + 9) as u32);
            if self.nanos % unit == 0 {
                let number = self.nanos / unit;
                return match (self.format, power) {
                    (Format::Exponent, 0) => write!(f, "{number}"),
                    (Format::Exponent, power) => write!(f, "{number}e{power}"),
                    _ => write!(f, "{number}{suffix}"),
                };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms_as_upstream() {
        let cases = [
            ("0", "0"),
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("256Mi", "256Mi"),
            ("100Ki", "100Ki"),
            ("1000k", "1M"),
            ("1e3", "1e3"),
            ("-1", "-1"),
            ("12345", "12345"),
            (".5", "500m"),
            ("100n", "100n"),
        ];
        for (text, canonical) in cases {
            let quantity: Quantity = text.parse().unwrap();
            assert_eq!(quantity.to_string(), canonical, "{text}");
            assert_eq!(canonical.parse::<Quantity>().unwrap(), quantity);
        }
    }

    #[test]
    fn values_round_up() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("1").milli(), 1000);
        assert_eq!(parse("250m").milli(), 250);
        assert_eq!(parse("1m").ceil(), 1);
        assert_eq!(parse("512Mi").ceil(), 512 << 20);
        assert_eq!(parse("-1500m").ceil(), -1);
        assert!(parse("1Gi") > parse("1G"));
    }

    #[test]
    fn refuses_what_is_none() {
        for text in ["", "x", "1x", "1 Mi", "--1", "1e", "1.2.3", "Mi", "1e99", "1mi"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }
}

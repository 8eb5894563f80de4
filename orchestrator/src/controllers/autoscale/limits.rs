//! PURE: how fast and how far replicas may change: `minReplicas`, `maxReplicas` and `behavior` (upstream
//! `pkg/controller/podautoscaler/horizontal.go`).

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// Seconds that a smaller recommendation must have lasted where nothing else is said.
const DOWN_WINDOW: i64 = 300;
/// The longest that anything is looked back at: longest window and longest period are shorter.
const MEMORY: SignedDuration = SignedDuration::from_secs(3600);

/// What was recommended and done before, in the order of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    recommendations: Vec<(Timestamp, i64)>,
    ups: Vec<(Timestamp, i64)>,
    downs: Vec<(Timestamp, i64)>,
}

impl Memory {
    /// Whether nothing is known yet.
    pub fn is_empty(&self) -> bool {
        self.recommendations.is_empty()
    }

    /// Notes a recommendation.
    pub fn recommend(&mut self, now: Timestamp, replicas: i64) {
        self.recommendations.push((now, replicas));
        for list in [&mut self.recommendations, &mut self.ups, &mut self.downs] {
            list.retain(|(at, _)| *at > now - MEMORY);
        }
    }

    /// Notes a change that was made.
    pub fn rescaled(&mut self, now: Timestamp, from: i64, to: i64) {
        if to > from {
            self.ups.push((now, to - from));
        } else {
            self.downs.push((now, from - to));
        }
    }

    fn within(&self, now: Timestamp, seconds: i64) -> impl Iterator<Item = i64> + '_ {
        let begin = now - SignedDuration::from_secs(seconds);
        let recent = self.recommendations.iter().filter(move |(at, _)| *at > begin);
        recent.map(|(_, replicas)| *replicas)
    }

    /// Replicas at the beginning of a period that ends now.
    fn before(&self, now: Timestamp, seconds: i64, current: i64) -> i64 {
        let begin = now - SignedDuration::from_secs(seconds);
        let sum = |list: &[(Timestamp, i64)]| -> i64 {
            let recent = list.iter().filter(|(at, _)| *at > begin);
            recent.map(|(_, change)| *change).sum()
        };
        current - sum(&self.ups) + sum(&self.downs)
    }
}

/// A number of replicas, and what a condition says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// How many.
    pub replicas: i64,
    /// CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: &'static str,
}

fn said(replicas: i64, reason: &'static str, message: &'static str) -> Said {
    Said {
        replicas,
        reason,
        message,
    }
}

/// What limits an autoscaler.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// `spec.minReplicas`.
    pub least: i64,
    /// `spec.maxReplicas`.
    pub most: i64,
    /// `spec.behavior`, with its defaults.
    pub behavior: Option<&'a Value>,
}

impl Limits<'_> {
    fn rules(&self, direction: &str) -> Value {
        self.behavior.map(|b| b[direction].clone()).unwrap_or_default()
    }

    /// A recommendation, as far as earlier ones let it through. The new one is to be noted afterwards.
    pub fn stabilized(&self, memory: &Memory, current: i64, recommended: i64, now: Timestamp) -> Said {
        const LOWER: &str =
            "recent recommendations were lower than current one, applying the lowest recent recommendation";
        const HIGHER: &str =
            "recent recommendations were higher than current one, applying the highest recent recommendation";
        let window = |direction: &str, usual: i64| {
            let own = self.rules(direction)["stabilizationWindowSeconds"].as_i64();
            own.unwrap_or(usual)
        };
        let down = memory.within(now, window("scaleDown", DOWN_WINDOW));
        let highest = down.fold(recommended, i64::max);
        let replicas = if self.behavior.is_some() {
            let lowest = memory
                .within(now, window("scaleUp", 0))
                .fold(recommended, i64::min);
            current.max(lowest).min(highest)
        } else {
            highest
        };
        if replicas == recommended {
            said(
                replicas,
                "ReadyForNewScale",
                "recommended size matches current size",
            )
        } else if self.behavior.is_some() && recommended >= current {
            said(replicas, "ScaleUpStabilized", LOWER)
        } else {
            said(replicas, "ScaleDownStabilized", HIGHER)
        }
    }

    /// What is left of a recommendation by the rules of speed and the bounds.
    pub fn limited(&self, memory: &Memory, current: i64, recommended: i64, now: Timestamp) -> Said {
        const FASTER: &str = "the desired replica count is increasing faster than the maximum scale rate";
        const SLOWER: &str = "the desired replica count is decreasing faster than the maximum scale rate";
        const MORE: &str = "the desired replica count is more than the maximum replica count";
        const LESS: &str = "the desired replica count is less than the minimum replica count";
        let up = match self.behavior {
            Some(_) => self.fastest_up(memory, current, now).max(current),
            None => (2 * current).max(4),
        };
        let down = match self.behavior {
            Some(_) => self.fastest_down(memory, current, now).min(current),
            None => i64::MIN,
        };
        let grows = self.behavior.is_none() || recommended > current;
        let shrinks = self.behavior.is_none() || recommended < current;
        if grows && recommended > self.most.min(up) {
            if self.most > up {
                return said(up, "ScaleUpLimit", FASTER);
            }
            return said(self.most, "TooManyReplicas", MORE);
        }
        if shrinks && recommended < self.least.max(down) {
            if self.least < down {
                return said(down, "ScaleDownLimit", SLOWER);
            }
            return said(self.least, "TooFewReplicas", LESS);
        }
        said(
            recommended,
            "DesiredWithinRange",
            "the desired count is within the acceptable range",
        )
    }

    fn fastest_up(&self, memory: &Memory, current: i64, now: Timestamp) -> i64 {
        let proposals = |rules: &Value| {
            each_policy(rules, |kind, value, period| {
                let begin = memory.before(now, period, current);
                if kind == "Pods" {
                    begin.saturating_add(value)
                } else {
                    // Rounded up: else few replicas would never grow by a few percent.
                    begin.saturating_add(div_ceil(begin.saturating_mul(value), 100))
                }
            })
        };
        let rules = self.rules("scaleUp");
        let proposals = proposals(&rules);
        match rules["selectPolicy"].as_str() {
            Some("Disabled") => current,
            Some("Min") => proposals.into_iter().min().unwrap_or(i64::MAX),
            _ => proposals.into_iter().max().unwrap_or(i64::MAX),
        }
    }

    fn fastest_down(&self, memory: &Memory, current: i64, now: Timestamp) -> i64 {
        let rules = self.rules("scaleDown");
        let proposals = each_policy(&rules, |kind, value, period| {
            let begin = memory.before(now, period, current);
            if kind == "Pods" {
                begin - value
            } else {
                // Towards zero, as upstream.
                (i128::from(begin) * (100 - i128::from(value)) / 100) as i64
            }
        });
        match rules["selectPolicy"].as_str() {
            Some("Disabled") => current,
            // The policy that takes the fewest away.
            Some("Min") => proposals.into_iter().max().unwrap_or(i64::MIN),
            _ => proposals.into_iter().min().unwrap_or(i64::MIN),
        }
    }
}

fn div_ceil(amount: i64, by: i64) -> i64 {
    amount.div_euclid(by) + i64::from(amount.rem_euclid(by) > 0)
}

fn each_policy(rules: &Value, of: impl Fn(&str, i64, i64) -> i64) -> Vec<i64> {
    let policies = rules["policies"].as_array();
    policies
        .into_iter()
        .flatten()
        .map(|policy| {
            let number = |name: &str| policy[name].as_i64().unwrap_or(0);
            of(
                policy["type"].as_str().unwrap_or_default(),
                number("value"),
                number("periodSeconds"),
            )
        })
        .collect()
}

//! PURE: thresholds of the node's resources: how they are written, and which of them are crossed.
//!
//! Source: Kubernetes documentation "Node-pressure Eviction"; kubelet's `--eviction-hard` and its kin.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

use berth_api::quantity::Quantity;

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Bytes of memory that can be had without swapping.
    Memory,
    /// Bytes of the file system of pods' volumes, writable layers and logs.
    NodeDisk,
    /// Inodes of it.
    NodeInodes,
    /// Bytes of the file system of images.
    ImageDisk,
    /// Inodes of it.
    ImageInodes,
    /// Processes that can still be made.
    Pids,
}

impl Signal {
    /// All of them: that which is looked at first comes first.
    pub const ALL: [Signal; 6] = [
        Signal::Memory,
        Signal::NodeDisk,
        Signal::NodeInodes,
        Signal::ImageDisk,
        Signal::ImageInodes,
        Signal::Pids,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Memory => "memory.available",
            Signal::NodeDisk => "nodefs.available",
            Signal::NodeInodes => "nodefs.inodesFree",
            Signal::ImageDisk => "imagefs.available",
            Signal::ImageInodes => "imagefs.inodesFree",
            Signal::Pids => "pid.available",
        }
    }

    /// What runs out, in messages.
    pub fn resource(self) -> &'static str {
        match self {
            Signal::Memory => "memory",
            Signal::NodeDisk | Signal::ImageDisk => "ephemeral-storage",
            Signal::NodeInodes | Signal::ImageInodes => "inodes",
            Signal::Pids => "pids",
        }
    }

    /// The condition of the node that it makes.
    pub fn pressure(self) -> Pressure {
        match self {
            Signal::Memory => Pressure::Memory,
            Signal::Pids => Pressure::Pid,
            _ => Pressure::Disk,
        }
    }
}

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// MemoryPressure.
    Memory,
    /// DiskPressure.
    Disk,
    /// PIDPressure.
    Pid,
}

impl Pressure {
    /// All of them.
    pub const ALL: [Pressure; 3] = [Pressure::Memory, Pressure::Disk, Pressure::Pid];

    /// Key of the taint that keeps new pods away.
    pub fn taint(self) -> &'static str {
        match self {
            Pressure::Memory => berth_api::room::MEMORY_PRESSURE,
            Pressure::Disk => "node.kubernetes.io/disk-pressure",
            Pressure::Pid => "node.kubernetes.io/pid-pressure",
        }
    }
}

/// A bound of what is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So much.
    Number(Quantity),
    /// So much of the whole, between 0 and 1.
    Share(f64),
}

impl Amount {
    fn of(self, capacity: u64) -> u64 {
        match self {
            Amount::Number(quantity) => quantity.ceil().max(0).cast_unsigned(),
            // Some bytes more or less of terabytes.
            #[allow(clippy::cast_precision_loss)]
            Amount::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} must be an amount or a percentage, such as 100Mi or 5%");
        match text.strip_suffix('%') {
            Some(number) => {
                let percent: f64 = number.parse().map_err(|_| wrong())?;
                if (0.0..=100.0).contains(&percent) {
                    Ok(Amount::Share(percent / 100.0))
                } else {
                    Err(wrong())
                }
            }
            None => match text.parse::<Quantity>() {
                Ok(quantity) if !quantity.is_negative() => Ok(Amount::Number(quantity)),
                _ => Err(wrong()),
            },
        }
    }
}

fn signal(name: &str) -> Result<Signal, String> {
    Signal::ALL.into_iter().find(|s| s.name() == name).ok_or_else(|| {
        let known: Vec<&str> = Signal::ALL.iter().map(|s| s.name()).collect();
        format!("{name:?} is no signal (there are: {})", known.join(", "))
    })
}

/// Amounts by signal: `memory.available<100Mi,nodefs.available<10%`, or with `=` where it is no bound.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Amounts(pub BTreeMap<Signal, Amount>);

impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = BTreeMap::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (name, amount) = part
                .split_once(['<', '='])
                .ok_or_else(|| format!("{part:?} must be SIGNAL<AMOUNT, such as memory.available<100Mi"))?;
            if list.insert(signal(name)?, amount.parse()?).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(Amounts(list))
    }
}

/// Durations by signal: `memory.available=1m30s`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graces(pub BTreeMap<Signal, Duration>);

impl FromStr for Graces {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = BTreeMap::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let wrong = || format!("{part:?} must be SIGNAL=DURATION, such as memory.available=1m30s");
            let (name, time) = part.split_once('=').ok_or_else(wrong)?;
            let time: jiff::SignedDuration = time.parse().map_err(|_| wrong())?;
            list.insert(signal(name)?, Duration::try_from(time).map_err(|_| wrong())?);
        }
        Ok(Graces(list))
    }
}

/// What is left of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// What there is.
    pub capacity: u64,
    /// What is left of it.
    pub available: u64,
}

/// The node's levels.
pub type Levels = BTreeMap<Signal, Level>;

/// When the node lets go of pods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Thresholds {
    /// At once.
    pub hard: Amounts,
    /// After a time, politely.
    pub soft: Amounts,
    /// How long a soft bound must be crossed.
    pub grace: Graces,
    /// How much more than the bound is to be free again.
    pub reclaim: Amounts,
    /// Seconds that pods get at most at a soft bound; their own, if zero.
    pub max_grace: i64,
    /// How long a condition holds on after its reason is gone.
    pub transition: Duration,
}

/// A bound that is crossed.
#[derive(Debug, Clone, PartialEq)]
pub struct Crossed {
    /// Of what.
    pub signal: Signal,
    /// The bound.
    pub bound: u64,
    /// What is left.
    pub available: u64,
    /// No time is given.
    pub hard: bool,
}

/// Since when bounds are crossed, from look to look.
#[derive(Debug, Default)]
pub struct Watch {
    soft: BTreeMap<Signal, Instant>,
    held: BTreeMap<Pressure, Instant>,
    reclaiming: BTreeMap<Signal, bool>,
}

impl Watch {
    /// Which bounds are crossed now, hard ones first, and which conditions hold.
    pub fn look(
        &mut self,
        wanted: &Thresholds,
        levels: &Levels,
        now: Instant,
    ) -> (Vec<Crossed>, Vec<Pressure>) {
        let mut crossed = Vec::new();
        for (amounts, hard) in [(&wanted.hard, true), (&wanted.soft, false)] {
            for (signal, amount) in &amounts.0 {
                let Some(level) = levels.get(signal) else { continue };
                let bound = amount.of(level.capacity);
                // Once begun it goes on until there is more than the bound.
                let more = match (self.reclaiming.get(signal), wanted.reclaim.0.get(signal)) {
                    (Some(true), Some(more)) => more.of(level.capacity),
                    _ => 0,
                };
                if level.available < bound.saturating_add(more) {
                    crossed.push(Crossed {
                        signal: *signal,
                        bound,
                        available: level.available,
                        hard,
                    });
                }
            }
        }
        let is_crossed =
            |signal: &Signal, hard: bool| crossed.iter().any(|c| c.signal == *signal && c.hard == hard);
        self.soft.retain(|signal, _| is_crossed(signal, false));
        for one in crossed.iter().filter(|c| !c.hard) {
            self.soft.entry(one.signal).or_insert(now);
        }
        for one in &crossed {
            self.held.insert(one.signal.pressure(), now);
        }
        let transition = wanted.transition;
        self.held
            .retain(|_, last| now.duration_since(*last) < transition || *last == now);
        crossed.retain(|c| {
            let grace = wanted.grace.0.get(&c.signal).copied().unwrap_or_default();
            c.hard
                || self
                    .soft
                    .get(&c.signal)
                    .is_some_and(|since| now.duration_since(*since) >= grace)
        });
        self.reclaiming = crossed.iter().map(|c| (c.signal, true)).collect();
        (crossed, self.held.keys().copied().collect())
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Amount::Number(quantity) => quantity.fmt(f),
            Amount::Share(share) => write!(f, "{}%", share * 100.0),
        }
    }
}

/// Bytes as people write them, and other numbers as they are.
pub fn shown(signal: Signal, amount: u64) -> String {
    match signal {
        Signal::Memory | Signal::NodeDisk | Signal::ImageDisk => format!("{}Ki", amount / 1024),
        _ => amount.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        let amounts: Amounts = "memory.available<100Mi,nodefs.available<10%,pid.available<1k"
            .parse()
            .unwrap();
        assert_eq!(amounts.0[&Signal::Memory].of(0), 100 << 20);
        assert_eq!(amounts.0[&Signal::NodeDisk].of(1000), 100);
        assert_eq!(amounts.0[&Signal::Pids].of(0), 1000);
        assert_eq!("".parse::<Amounts>().unwrap(), Amounts::default());
        for wrong in [
            "memory<1",
            "memory.available",
            "memory.available<x",
            "memory.available<101%",
            "memory.available<-1",
            "memory.available<1,memory.available<2",
        ] {
            assert!(wrong.parse::<Amounts>().is_err(), "{wrong}");
        }
        let graces: Graces = "memory.available=1m30s".parse().unwrap();
        assert_eq!(graces.0[&Signal::Memory], Duration::from_secs(90));
        assert!("memory.available=soon".parse::<Graces>().is_err());
    }

    #[test]
    fn soft_bounds_wait_and_conditions_hold_on() {
        let wanted = Thresholds {
            hard: "memory.available<10".parse().unwrap(),
            soft: "memory.available<20".parse().unwrap(),
            grace: "memory.available=10s".parse().unwrap(),
            reclaim: "memory.available=5".parse().unwrap(),
            transition: Duration::from_mins(1),
            ..Thresholds::default()
        };
        let mut watch = Watch::default();
        let begin = Instant::now();
        let mut look = |available: u64, second: u64| {
            let level = Level {
                capacity: 100,
                available,
            };
            let now = begin + Duration::from_secs(second);
            let (crossed, held) = watch.look(&wanted, &BTreeMap::from([(Signal::Memory, level)]), now);
            (
                crossed.iter().map(|c| (c.hard, c.bound)).collect::<Vec<_>>(),
                held.len(),
            )
        };
        assert_eq!(look(50, 0), (vec![], 0));
        assert_eq!(look(15, 1), (vec![], 1));
        assert_eq!(look(15, 10), (vec![], 1));
        assert_eq!(look(15, 11), (vec![(false, 20)], 1));
        assert_eq!(look(5, 12), (vec![(true, 10), (false, 20)], 1));
        // More is wanted than the bound, once it was crossed.
        assert_eq!(look(24, 13), (vec![(false, 20)], 1));
        assert_eq!(look(26, 14), (vec![], 1));
        assert_eq!(look(26, 72), (vec![], 1));
        assert_eq!(look(26, 73), (vec![], 0));
        // The time begins anew.
        assert_eq!(look(15, 80), (vec![], 1));
    }
}

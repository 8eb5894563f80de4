use std::ffi::CString;

use super::encode::{SlotNumbers, plan};
use super::*;

#[derive(Debug)]
struct Numbers;

impl SlotNumbers for Numbers {
    fn number(&self, slot: Slot) -> i32 {
        match slot {
            Slot::Gate => 7,
            Slot::Source(number) => 100 + number as i32,
            _ => -1,
        }
    }
}

fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn sample() -> Vec<InitStep> {
    vec![
        InitStep::Session {},
        InitStep::Hostname {
            name: b"box".to_vec(),
        },
        InitStep::Bind {
            source: c("/from"),
            descriptor: Some(Slot::Source(3)),
            target: c("/to"),
            set: 1,
            clear: 2,
            named: 1,
            set_all: 4,
            clear_all: 8,
            propagation: 16,
            propagation_all: true,
            flags: 32,
            number: 9,
        },
        InitStep::FsMount {
            fstype: c("tmpfs"),
            source: c(""),
            options: vec![c("size=1m"), c("ro"), c("")],
            attributes: u64::MAX,
            target: c("/tmp"),
            propagation: 0,
            fallback: c(""),
            flags: 0,
            number: 0,
        },
        InitStep::Park {
            gate: Some(Slot::Gate),
        },
        InitStep::Execute {
            arguments: vec![c("sh"), c("-c"), c("true")],
            environment: vec![c("A=b")],
        },
    ]
}

fn bytes() -> Vec<u8> {
    plan(&sample(), 5, 3, &Numbers).0
}

#[test]
fn a_plan_survives_the_wire() {
    let (bytes, scratch) = plan(&sample(), 5, 4, &Numbers);
    assert_eq!(scratch, 3 + 1 + 3);
    let (header, steps) = decode(&bytes).unwrap();
    assert_eq!(
        header,
        Header {
            socket: 5,
            first_private: 4,
            steps: 6
        }
    );
    let steps: Vec<_> = steps.map(|step| step.unwrap().1).collect();
    assert!(matches!(steps[0], Step::Session {}));
    assert!(matches!(steps[1], Step::Hostname { name: b"box" }));
    let Step::Bind {
        source,
        descriptor,
        target,
        set,
        clear,
        named,
        set_all,
        clear_all,
        propagation,
        propagation_all,
        flags,
        number,
    } = &steps[2]
    else {
        panic!("{:?}", steps[2]);
    };
    assert_eq!((*source, *target, *descriptor), (c"/from", c"/to", 103));
    assert_eq!((*set, *clear, *named, *set_all, *clear_all), (1, 2, 1, 4, 8));
    assert_eq!(
        (*propagation, *propagation_all, *flags, *number),
        (16, true, 32, 9)
    );
    let Step::FsMount {
        options, attributes, ..
    } = &steps[3]
    else {
        panic!("{:?}", steps[3]);
    };
    assert_eq!(options.len(), 3);
    assert_eq!(options.clone().collect::<Vec<_>>(), [c"size=1m", c"ro", c""]);
    assert_eq!(*attributes, u64::MAX);
    assert!(matches!(steps[4], Step::Park { gate: 7 }));
}

/// Decodes everything, and tells whether it was a whole plan.
fn decodes(bytes: &[u8]) -> bool {
    let Ok((header, steps)) = decode(bytes) else {
        return false;
    };
    let mut count = 0;
    for step in steps {
        match step {
            Ok((
                _,
                Step::Execute {
                    arguments,
                    environment,
                },
            )) => count += usize::from(arguments.chain(environment).count() < usize::MAX),
            Ok(_) => count += 1,
            Err(Malformed) => return false,
        }
    }
    count == header.steps as usize
}

#[test]
fn a_plan_that_was_cut_is_malformed_at_every_length() {
    let bytes = bytes();
    assert!(decodes(&bytes));
    for length in 0..bytes.len() {
        assert!(!decodes(&bytes[..length]), "{length}");
        // Even with a header that says so.
        let mut cut = bytes[..length].to_vec();
        if length >= 8 {
            cut[..8].copy_from_slice(&(length as u64).to_le_bytes());
        }
        assert!(!decodes(&cut), "{length}");
    }
}

#[test]
fn damaged_plans_never_reach_outside_of_their_bytes() {
    // A small generator (xorshift), so that a failure can be repeated.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let whole = bytes();
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..=next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        // Whatever it decodes to: no panic, no endless loop.
        let _ = decodes(&bytes);
    }
}

#[test]
fn lengths_that_overflow_are_malformed() {
    for number in [u32::MAX, u32::MAX - 3, i32::MAX as u32] {
        let mut reader = Reader::new(b"\xff\xff\xff\xff");
        assert_eq!(reader.bytes(), Err(Malformed));
        let list = number.to_le_bytes();
        let mut reader = Reader::new(&list);
        assert!(TextList::decode(&mut reader).is_err());
    }
    // A string must end with its only NUL.
    assert!(Reader::new(b"\x03\0\0\0a\0b").text().is_err());
    assert!(Reader::new(b"\x02\0\0\0ab").text().is_err());
    assert!(Reader::new(b"\0\0\0\0").text().is_err());
    assert_eq!(Reader::new(b"\x03\0\0\0ab\0").text(), Ok(c"ab"));
}

#[test]
fn reports_survive_the_wire() {
    let failed = Report::Failed {
        step: 3,
        tag: 41,
        errno: 2,
        reason: reason::STAT,
        number: 1,
        detail: b"/no/such",
    };
    for report in [
        Report::Ready,
        Report::Listener,
        Report::Reached(sync::READY),
        failed,
    ] {
        let mut buffer = [0; REPORT_LENGTH];
        let length = report.encode(&mut buffer);
        assert_eq!(Report::decode(&buffer[..length]), Ok(report));
        for cut in 0..length.min(20) {
            assert_ne!(Report::decode(&buffer[..cut]), Ok(report));
        }
    }
    assert_eq!(Report::decode(b""), Err(Malformed));
    assert_eq!(Report::decode(&[9; 64]), Err(Malformed));
}

#[test]
fn a_detail_that_is_too_long_is_cut() {
    let detail = [b'x'; 2 * REPORT_LENGTH];
    let report = Report::Failed {
        step: 0,
        tag: 1,
        errno: 1,
        reason: 0,
        number: 0,
        detail: &detail,
    };
    let mut buffer = [0; REPORT_LENGTH];
    assert_eq!(report.encode(&mut buffer), REPORT_LENGTH);
    let Ok(Report::Failed { detail, .. }) = Report::decode(&buffer) else {
        panic!("no report");
    };
    assert!(detail.iter().all(|byte| *byte == b'x'));
}

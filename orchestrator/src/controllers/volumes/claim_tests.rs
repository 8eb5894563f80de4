use std::collections::BTreeMap;

use super::*;

fn claim(class: Option<&str>, volume: &str) -> Value {
    let mut claim = json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "u", "resourceVersion": "7"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "volumeMode": "Filesystem",
        },
        "status": {"phase": "Pending"},
    });
    if let Some(class) = class {
        claim["spec"]["storageClassName"] = json!(class);
    }
    if !volume.is_empty() {
        claim["spec"]["volumeName"] = json!(volume);
    }
    claim
}

fn volume(name: &str, class: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": class},
        "status": {"phase": "Available"},
    })
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({
        "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode, "reclaimPolicy": "Delete",
        "allowVolumeExpansion": true,
    })
}

fn decide(claim: &Value, volumes: &[Value], classes: &[Value], has_consumer: bool) -> Decision {
    let node = Node {
        name: "here".to_owned(),
        labels: BTreeMap::new(),
    };
    let world = World {
        volumes,
        classes,
        has_consumer,
        node: &node,
    };
    plan(claim, &world)
}

fn reason(decision: &Decision) -> &'static str {
    match decision {
        Decision::Keep => "keep",
        Decision::Bind(_) => "bind",
        Decision::Provision(_) => "provision",
        Decision::Expand(_) => "expand",
        Decision::Class(_) => "class",
        Decision::Wait(told) | Decision::Lost(told) => told.reason,
    }
}

#[test]
fn a_claim_is_bound_provisioned_or_waits() {
    let classes = [
        class("now", PROVISIONER, "Immediate"),
        class("late", PROVISIONER, "WaitForFirstConsumer"),
        class("hand", NO_PROVISIONER, "WaitForFirstConsumer"),
        class("cloud", "ebs.csi.aws.com", "Immediate"),
    ];
    for (wanted, there, consumer, expected) in [
        (Some("now"), vec![], false, "provision"),
        (Some("now"), vec![volume("v", "now")], false, "bind"),
        (Some("now"), vec![volume("v", "late")], false, "provision"),
        (Some("late"), vec![], false, "WaitForFirstConsumer"),
        (
            Some("late"),
            vec![volume("v", "late")],
            false,
            "WaitForFirstConsumer",
        ),
        (Some("late"), vec![volume("v", "late")], true, "bind"),
        (Some("late"), vec![], true, "provision"),
        (Some("hand"), vec![], true, "FailedBinding"),
        (Some("hand"), vec![volume("v", "hand")], true, "bind"),
        (Some("cloud"), vec![], false, "ExternalProvisioning"),
        (Some("none"), vec![], false, "ProvisioningFailed"),
        (Some(""), vec![], false, "FailedBinding"),
        (Some(""), vec![volume("v", "")], false, "bind"),
        (None, vec![volume("v", "")], false, "bind"),
    ] {
        let found = decide(&claim(wanted, ""), &there, &classes, consumer);
        assert_eq!(reason(&found), expected, "{wanted:?} {there:?} {consumer}");
    }
    let mut standard = class("usual", PROVISIONER, "Immediate");
    standard["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let found = decide(&claim(None, ""), &[], &[standard], false);
    assert_eq!(found, Decision::Class("usual".to_owned()));
    let mut selects = claim(Some("now"), "");
    selects["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
    assert_eq!(
        reason(&decide(&selects, &[], &classes, false)),
        "ProvisioningFailed"
    );
}

#[test]
fn a_claim_that_names_its_volume() {
    let named = claim(Some("slow"), "v");
    let told = |there: Value| reason(&decide(&named, &[there], &[], false));
    assert_eq!(reason(&decide(&named, &[], &[], false)), "FailedBinding");
    assert_eq!(told(volume("v", "slow")), "bind");
    assert_eq!(told(volume("v", "fast")), "VolumeMismatch");
    let mut other = volume("v", "slow");
    other["spec"]["claimRef"] = json!({"name": "x", "namespace": "d", "uid": "y"});
    assert_eq!(told(other.clone()), "FailedBinding");
    other["spec"]["claimRef"] = json!({"name": "c", "namespace": "d", "uid": "u"});
    assert_eq!(told(other), "bind");
}

#[test]
fn a_bond_is_made_once_and_kept() {
    let (wish, found) = (claim(Some("slow"), ""), volume("v", "slow"));
    let found = taken(found, &wish);
    assert_eq!(found["spec"]["claimRef"]["uid"], "u");
    assert_eq!(taken(found.clone(), &wish), found);
    let bond = bound(wish.clone(), &found, None);
    assert_eq!(bond["spec"]["volumeName"], "v");
    assert_eq!(bound(bond.clone(), &found, None), bond);
    assert_eq!(bound_status(&bond, &found)["capacity"]["storage"], "2Gi");
    let again = |volumes: &[Value]| reason(&decide(&bond, volumes, &[], false));
    assert_eq!(again(std::slice::from_ref(&found)), "bind");
    let (mut whole, mut taken_volume) = (bond.clone(), found.clone());
    taken_volume["status"]["phase"] = json!("Bound");
    whole["status"] = bound_status(&bond, &found);
    assert_eq!(reason(&decide(&whole, &[taken_volume], &[], false)), "keep");
    assert_eq!(again(&[]), "ClaimLost");
    let mut stolen = found.clone();
    stolen["spec"]["claimRef"]["uid"] = json!("u2");
    assert_eq!(again(&[stolen]), "ClaimMisbound");
    // Half made: only the volume knows of it.
    assert_eq!(reason(&decide(&wish, &[found], &[], false)), "bind");
}

#[test]
fn a_claim_that_was_made_bigger() {
    let classes = [class("now", PROVISIONER, "Immediate")];
    let wish = claim(Some("now"), "");
    let made = provisioned(&wish, &classes[0], "pvc-u", Path::new("/x/pvc-u"), "here");
    let mut bond = bound(wish, &made, Some("here"));
    assert_eq!(annotation(&bond, SELECTED_NODE), Some("here"));
    assert_eq!(
        reason(&decide(&bond, std::slice::from_ref(&made), &classes, false)),
        "bind"
    );
    bond["spec"]["resources"]["requests"]["storage"] = json!("3Gi");
    assert_eq!(
        reason(&decide(&bond, std::slice::from_ref(&made), &classes, false)),
        "expand"
    );
    // Somebody else's volume stays as large as it is.
    let mut foreign = made;
    foreign["metadata"]["annotations"] = json!({});
    assert_eq!(reason(&decide(&bond, &[foreign], &classes, false)), "bind");
}

#[test]
fn who_needs_and_who_holds_a_claim() {
    let pod = |phase: &str, placed: Option<&str>| {
        let conditions: Vec<Value> = placed
            .map(|status| json!({"type": "PodScheduled", "status": status}))
            .into_iter()
            .collect();
        json!({"metadata": {}, "status": {"phase": phase, "conditions": conditions}})
    };
    assert!(consumes(&pod("Pending", Some("False"))) && !consumes(&pod("Failed", None)));
    assert!(holds(&pod("Pending", None)) && holds(&pod("Succeeded", Some("True"))));
    assert!(!holds(&pod("Pending", Some("False"))));
}

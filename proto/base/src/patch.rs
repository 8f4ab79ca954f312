//! What changed from one JSON value to another, as a merge patch (RFC 7396).
//!
//! A member with a value is set, one that is null goes, objects are gone into, and everything else is replaced as a whole. Neither
//! side may have a member that is null: a patch has no word for one.

use serde_json::{Map, Value};

/// The patch that makes `to` of `from`; an empty object if they are equal.
pub fn difference(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let gone = from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = to.iter().filter_map(|(name, new)| match from.get(name) {
        Some(old) if old == new => None,
        Some(old) => Some((name.clone(), difference(old, new))),
        None => Some((name.clone(), new.clone())),
    });
    Value::Object(gone.chain(changed).collect())
}

/// Changes `target` as the patch says.
pub fn apply(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, change) in patch {
        match change {
            Value::Null => drop(members.remove(&name)),
            change => apply(members.entry(name).or_insert(Value::Null), change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_patch_makes_the_one_of_the_other_and_has_only_what_changed() {
        for (from, to, patch) in [
            (json!({"a": 1, "b": {"c": 2, "d": 3}}), json!({"a": 1, "b": {"c": 4, "e": 5}}), json!({"b": {"c": 4, "d": null, "e": 5}})),
            (json!({"a": [1, 2]}), json!({"a": [2]}), json!({"a": [2]})),
            (json!({"a": 1}), json!({"a": {"b": {}}}), json!({"a": {"b": {}}})),
            (json!({"a": {"b": 1}}), json!({"a": "x"}), json!({"a": "x"})),
            (json!({"a": 1}), json!({"a": 1}), json!({})),
            (json!({"a": {"b": 1}}), json!({}), json!({"a": null})),
        ] {
            assert_eq!(difference(&from, &to), patch);
            let mut target = from.clone();
            apply(&mut target, patch);
            assert_eq!(target, to, "from {from}");
        }
    }

    #[test]
    fn the_examples_of_the_standard_come_out_as_it_says() {
        for (target, patch, result) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"a": "foo"}), json!("bar"), json!("bar")),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut changed = target;
            apply(&mut changed, patch);
            assert_eq!(changed, result);
        }
    }
}

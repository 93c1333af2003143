//! The names of the rules by which versions are found incompatible. They are part of the API.

/// A rule: its name when old payloads are refused by the new schema, and when new ones are by the old schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rule(pub(super) &'static str, pub(super) &'static str);

pub(super) const NOT_DECIDED: Rule = Rule("not_decided", "not_decided");
/// A schema that takes nothing stands where something was allowed.
pub(super) const FORBIDDEN: Rule = Rule("value_forbidden", "value_allowed");
pub(super) const TYPE: Rule = Rule("type_narrowed", "type_widened");
pub(super) const ENUM: Rule = Rule("enum_value_removed", "enum_value_added");
pub(super) const CONST: Rule = Rule("const_changed", "const_changed");
pub(super) const MAXIMUM: Rule = Rule("maximum_lowered", "maximum_raised");
pub(super) const MINIMUM: Rule = Rule("minimum_raised", "minimum_lowered");
pub(super) const MULTIPLE_OF: Rule = Rule("multiple_of_changed", "multiple_of_changed");
pub(super) const MAX_LENGTH: Rule = Rule("max_length_lowered", "max_length_raised");
pub(super) const MIN_LENGTH: Rule = Rule("min_length_raised", "min_length_lowered");
pub(super) const PATTERN: Rule = Rule("pattern_changed", "pattern_changed");
pub(super) const MAX_ITEMS: Rule = Rule("max_items_lowered", "max_items_raised");
pub(super) const MIN_ITEMS: Rule = Rule("min_items_raised", "min_items_lowered");
pub(super) const UNIQUE_ITEMS: Rule = Rule("unique_items_required", "unique_items_dropped");
pub(super) const ITEMS_CLOSED: Rule = Rule("items_closed", "items_opened");
pub(super) const CONTAINS: Rule = Rule("contains_changed", "contains_changed");
pub(super) const MAX_PROPERTIES: Rule = Rule("max_properties_lowered", "max_properties_raised");
pub(super) const MIN_PROPERTIES: Rule = Rule("min_properties_raised", "min_properties_lowered");
pub(super) const REQUIRED: Rule = Rule("property_required", "property_made_optional");
pub(super) const DEPENDENCY: Rule = Rule("dependency_added", "dependency_removed");
/// A property that was named is one of those that a closed schema refuses.
pub(super) const PROPERTY_REMOVED: Rule = Rule("property_removed", "property_added");
pub(super) const CLOSED: Rule = Rule("additional_properties_closed", "additional_properties_opened");
pub(super) const PROPERTY_NAMES: Rule = Rule("property_names_narrowed", "property_names_widened");
pub(super) const ANY_OF: Rule = Rule("any_of_narrowed", "any_of_widened");
pub(super) const ONE_OF: Rule = Rule("one_of_changed", "one_of_changed");
pub(super) const NOT: Rule = Rule("not_changed", "not_changed");
pub(super) const OTHER: Rule = Rule("keyword_changed", "keyword_changed");

/// The rule that a keyword of a schema stands for where a single value is refused by it.
pub(super) fn of_keyword(keyword: &str) -> Rule {
    match keyword {
        "type" => TYPE,
        "enum" => ENUM,
        "const" => CONST,
        "maximum" | "exclusiveMaximum" => MAXIMUM,
        "minimum" | "exclusiveMinimum" => MINIMUM,
        "multipleOf" => MULTIPLE_OF,
        "maxLength" => MAX_LENGTH,
        "minLength" => MIN_LENGTH,
        "pattern" => PATTERN,
        "maxItems" => MAX_ITEMS,
        "minItems" => MIN_ITEMS,
        "uniqueItems" => UNIQUE_ITEMS,
        "contains" => CONTAINS,
        "maxProperties" => MAX_PROPERTIES,
        "minProperties" => MIN_PROPERTIES,
        "required" => REQUIRED,
        "dependentRequired" | "dependentSchemas" | "dependencies" => DEPENDENCY,
        "additionalProperties" | "unevaluatedProperties" => CLOSED,
        "propertyNames" => PROPERTY_NAMES,
        "anyOf" => ANY_OF,
        "oneOf" => ONE_OF,
        "not" => NOT,
        _ => OTHER,
    }
}

//! Whether there are values at all: of what there is none, every demand holds.

use super::arrays::{parts_of_element, places};
use super::include::Comparer;
use super::objects::{is_forbidden, parts_of_property};
use super::ranges::Types;
use super::same::same;
use super::shape::{Part, Shape};
use super::work::TooMuch;

/// Values inside values in which it is looked whether there are any.
const MAX_DEPTH: usize = 8;

impl Comparer {
    /// Whether nothing is valid under all parts, as far as it is known.
    pub(super) fn none_is_valid<'a>(&mut self, parts: &[Part<'a>], depth: usize) -> Result<bool, TooMuch> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        let Ok(shapes) = Shape::all(parts, &mut self.work) else {
            self.work.step()?;
            return Ok(false);
        };
        for shape in &shapes {
            if !self.is_empty_at(shape, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn is_empty<'a>(&mut self, shape: &Shape<'a>) -> Result<bool, TooMuch> {
        self.is_empty_at(shape, 0)
    }

    fn is_empty_at<'a>(&mut self, shape: &Shape<'a>, depth: usize) -> Result<bool, TooMuch> {
        self.work.step()?;
        if let Some(values) = &shape.values {
            return Ok(values.iter().all(|value| self.is_not_of(value, shape)));
        }
        for unwanted in &shape.invalid {
            for wanted in &shape.valid {
                if same(wanted, unwanted, &mut self.work.left) {
                    return Ok(true);
                }
                let is_other = !std::ptr::eq(wanted.document, unwanted.document);
                if is_other && depth == 0 && self.is_included(&[Part::Valid(wanted.clone())], unwanted)? {
                    return Ok(true);
                }
            }
        }
        let mut types = shape.types;
        if types.meets(Types::ARRAY) {
            for place in 0..shape.items.least.min(places(shape) as u64 + 1) {
                if self.none_is_valid(&parts_of_element(shape, place as usize), depth + 1)? {
                    types = types.without(Types::ARRAY);
                    break;
                }
            }
        }
        if types.meets(Types::OBJECT) {
            for name in &shape.required {
                let parts = parts_of_property(shape, name, &mut self.work)?;
                if is_forbidden(shape, name, &mut self.work) || self.none_is_valid(&parts, depth + 1)? {
                    types = types.without(Types::OBJECT);
                    break;
                }
            }
        }
        Ok(types.is_empty())
    }
}

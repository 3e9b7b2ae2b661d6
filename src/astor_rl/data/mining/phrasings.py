"""Subject lines for edits: several phrasings an operator, all of them readable off the diff."""

from __future__ import annotations

from collections.abc import Mapping

PHRASINGS: Mapping[str, tuple[str, ...]] = {
    "rename_variable": (
        "Rename variable {old} to {new} in {function}",
        "Rename {old} to {new}",
        "Use {new} instead of {old} as name in {function}",
        "Give {old} the clearer name {new}",
    ),
    "rename_parameter": (
        "Rename parameter {old} of {function} to {new}",
        "Rename {function} argument {old} to {new}",
        "Rename {old} to {new} in {function} signature",
        "Call the {function} parameter {new} instead of {old}",
    ),
    "rename_function": (
        "Rename {old} to {new}",
        "Rename function {old} to {new}",
        "Use the name {new} for {old}",
    ),
    "add_docstring": (
        "Add docstring to {function}",
        "Document {function}",
        "Add missing docstring for {function}",
        "Describe what {function} does",
    ),
    "add_type_hints": (
        "Add type hints to {function}",
        "Annotate {function}",
        "Add type annotations for {what} of {function}",
    ),
    "extract_constant": (
        "Extract {value} into constant {name}",
        "Move {value} to constant {name}",
        "Introduce {name} constant in place of {value}",
        "Replace {value} by named constant {name}",
    ),
    "extract_variable": (
        "Extract variable {name} in {function}",
        "Store result in variable {name} before returning it",
        "Introduce {name} variable in {function}",
    ),
    "inline_variable": (
        "Inline variable {name} in {function}",
        "Return value directly in {function}",
        "Remove temporary variable {name}",
    ),
    "remove_unused_variable": (
        "Remove unused variable {name} from {function}",
        "Remove unused {name}",
        "Drop unused variable {name}",
        "Delete dead assignment to {name} in {function}",
    ),
    "loop_to_comprehension": (
        "Use list comprehension in {function}",
        "Replace loop by list comprehension in {function}",
        "Simplify {function} with a list comprehension",
        "Build result of {function} with a comprehension",
    ),
    "comprehension_to_loop": (
        "Replace comprehension by loop in {function}",
        "Use an explicit loop in {function}",
        "Unroll comprehension in {function} into a for loop",
    ),
    "drop_else_after_return": (
        "Remove unnecessary else after return in {function}",
        "Drop else after return",
        "Unindent code after early return in {function}",
    ),
    "invert_condition": (
        "Invert condition in {function}",
        "Swap if and else branches in {function}",
        "Negate condition and swap branches of {function}",
    ),
    "use_augmented_assignment": (
        "Use augmented assignment for {name} in {function}",
        "Use augmented assignment in {function}",
        "Simplify update of {name} with augmented assignment",
    ),
    "use_is_none": (
        "Compare {name} to None with is",
        "Use is instead of == for None in {function}",
        "Use identity check for None in {function}",
    ),
    "add_cache": (
        "Cache results of {function}",
        "Add lru_cache to {function}",
        "Memoize {function} with lru_cache",
    ),
    "keyword_only": (
        "Make {what} of {function} keyword-only",
        "Require {what} as keyword argument in {function}",
        "Only accept {what} by keyword in {function}",
    ),
    "merge_nested_if": (
        "Merge nested if statements in {function}",
        "Combine nested conditions in {function}",
        "Use a single if with and in {function}",
    ),
    "add_default": (
        "Add default value {value} for {name} in {function}",
        "Make parameter {name} of {function} optional",
        "Default {name} to {value} in {function}",
    ),
    "change_default": (
        "Change default of {name} from {old} to {new}",
        "Change default {name} of {function} to {new}",
        "Use {new} as default for {name} in {function}",
    ),
    "add_guard": (
        "Return early from {function} if {name} is empty",
        "Handle empty {name} in {function}",
        "Return {value} for empty {name} in {function}",
    ),
    "add_none_check": (
        "Raise {error} if {name} is None in {function}",
        "Raise {error} when {name} is None",
        "Check that {name} is not None in {function}",
        "Reject None for {name} in {function}",
    ),
    "add_type_check": (
        "Raise TypeError if {name} is not {kind}",
        "Check type of {name} in {function}",
        "Require {name} to be {kind} in {function}",
    ),
    "add_logging": (
        "Add debug logging to {function}",
        "Log {name} in {function}",
        "Log calls of {function} at debug level",
    ),
    "add_deprecation": (
        "Deprecate {function}",
        "Add deprecation warning to {function}",
        "Warn that {function} is deprecated",
    ),
    "remove_debug_print": (
        "Remove debug print from {function}",
        "Remove print statement from {function}",
        "Drop leftover print of {name} in {function}",
    ),
    "change_exception": (
        "Raise {new} instead of {old} in {function}",
        "Use {new} instead of {old}",
        "Change exception raised by {function} to {new}",
    ),
    "improve_message": (
        "Add function name to {error} message in {function}",
        "Mention {function} in error message",
        "Improve error message of {function}",
    ),
    "change_constant": (
        "Change {old} to {new} in {function}",
        "Use {new} instead of {old} in {function}",
        "Change constant in {function} from {old} to {new}",
    ),
    "fix_compare": (
        "Fix comparison in {function}: use {new} instead of {old}",
        "Use {new} instead of {old} in {function}",
        "Fix wrong comparison {old} in {function}",
    ),
    "fix_arith": (
        "Fix arithmetic in {function}: use {new} instead of {old}",
        "Use {new} instead of {old} in {function}",
        "Fix wrong operator {old} in {function}",
    ),
    "fix_const_int": (
        "Fix constant in {function}: use {new} instead of {old}",
        "Use {new} instead of {old} in {function}",
        "Fix off-by-one constant {old} in {function}",
    ),
    "fix_negate": (
        "Fix inverted condition in {function}",
        "Fix negated condition in {function}",
        "Remove wrong not from condition in {function}",
    ),
    "fix_boolop": (
        "Fix condition in {function}: use {new} instead of {old}",
        "Use {new} instead of {old} in {function} condition",
        "Fix boolean operator in {function}",
    ),
    "fix_return_none": (
        "Return the result from {function}",
        "Fix {function} returning None",
        "Fix missing return value in {function}",
    ),
    "fix_remove_statement": (
        "Add missing {new} to {function}",
        "Fix missing statement in {function}",
        "Restore {new} in {function}",
    ),
    "fix_slice": (
        "Fix off-by-one in slice of {function}",
        "Fix slice bound in {function}: use {new}",
        "Use {new} as slice bound in {function}",
    ),
    "fix_range": (
        "Fix off-by-one in range of {function}",
        "Fix range end in {function}: use {new}",
        "Use {new} as end of range in {function}",
    ),
    "fix_swap_args": (
        "Fix argument order in {function}",
        "Swap arguments in {function}",
        "Pass {new} in the right order in {function}",
    ),
    "fix_call": (
        "Use {new} instead of {old} in {function}",
        "Fix wrong call in {function}: use {new}",
        "Call {new} instead of {old} in {function}",
    ),
    "fix_unary": (
        "Add missing {new} in {function}",
        "Fix missing {new} in {function}",
    ),
    "fix_const_bool": (
        "Use {new} instead of {old} in {function}",
        "Fix flag in {function}: use {new}",
        "Change {old} to {new} in {function}",
    ),
    "fix_const_str": (
        "Use {new} instead of {old} in {function}",
        "Fix wrong string {old} in {function}",
        "Fix text in {function}: use {new}",
    ),
    "fix_break_continue": (
        "Use {new} instead of {old} in {function}",
        "Fix loop in {function}: {new} instead of {old}",
    ),
}
"""Phrasings by operator, the plainest first; `{function}` and the operator's slots go in."""

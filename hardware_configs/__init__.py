"""Hardware descriptions as YAML files: every number with unit, source, grade and the range that its sources span."""

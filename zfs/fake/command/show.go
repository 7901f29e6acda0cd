package command

func (c *call) list(args []string) int    { return c.notModelled(c.verb) }
func (c *call) get(args []string) int     { return c.notModelled(c.verb) }
func (c *call) set(args []string) int     { return c.notModelled(c.verb) }
func (c *call) inherit(args []string) int { return c.notModelled(c.verb) }

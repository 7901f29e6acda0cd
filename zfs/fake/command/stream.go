package command

func (c *call) send(args []string) int    { return c.notModelled(c.verb) }
func (c *call) receive(args []string) int { return c.notModelled(c.verb) }
